"""Servers of our own that answer as the vendors document, and refuse what their documents do not allow."""

import base64
import hmac
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import http_ece
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

Fault = Callable[[web.Request], web.Response | None]

PROJECT, ACCOUNT = "shop-1", "tidings@shop-1.iam.gserviceaccount.com"
RSA = rsa.generate_private_key(65537, 2048)
RSA_PEM = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
EC = ec.generate_private_key(ec.SECP256R1())
EC_PEM = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Vendors:
    """All of them at one port. `taken`: what was accepted, (vendor, what was said). `fault`: answers instead."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Any]] = []
        self.refused: list[str] = []
        self.fault: Fault | None = None
        self.tokens = 0
        self.browser = ec.generate_private_key(ec.SECP256R1())
        self.browser_auth = b"0123456789abcdef"
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> "Vendors":
        app = web.Application()
        app.router.add_post("/2010-04-01/Accounts/{sid}/Messages.json", self._guarded(self._twilio))
        app.router.add_post("/bot{token}/{method}", self._guarded(self._telegram))
        app.router.add_post("/token", self._guarded(self._google_token))
        app.router.add_post("/v1/projects/{project}/messages:send", self._guarded(self._fcm))
        app.router.add_post("/{version}/{sender}/messages", self._guarded(self._whatsapp))
        app.router.add_post("/push/{id}", self._guarded(self._webpush))
        app.router.add_post("/hook", self._guarded(self._webhook))
        app.router.add_route("*", "/form", self._guarded(self._form))
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def said(self, vendor: str) -> list[Any]:
        return [what for who, what in self.taken if who == vendor]

    def subscription(self) -> str:
        point = self.browser.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        keys = {"p256dh": b64url(point), "auth": b64url(self.browser_auth)}
        return json.dumps({"endpoint": f"{self.url}/push/abc", "keys": keys})

    def service_account(self) -> str:
        return json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "k1",
                "private_key": RSA_PEM,
                "client_email": ACCOUNT,
                "token_uri": f"{self.url}/token",
            }
        )

    def _guarded(self, handler: Callable) -> Callable:
        async def guard(request: web.Request) -> web.StreamResponse:
            fault = self.fault(request) if self.fault is not None else None
            return fault if fault is not None else await handler(request)

        return guard

    def _refuse(self, why: str, status: int, body: Any) -> web.Response:
        self.refused.append(why)
        return web.json_response(body, status=status)

    # developers.facebook.com/docs/whatsapp/cloud-api/reference/messages
    async def _whatsapp(self, request: web.Request) -> web.Response:
        def error(code: int, words: str, status: int = 400) -> web.Response:
            return self._refuse(words, status, {"error": {"message": words, "type": "OAuthException", "code": code}})

        if request.headers.get("Authorization") != "Bearer wa-token":
            return error(190, "Invalid OAuth access token", 401)
        said = await request.json()
        kind = said.get("type")
        if (
            said.get("messaging_product") != "whatsapp"
            or not re.fullmatch(r"[1-9]\d{6,14}", said["to"])
            or kind not in said
        ):
            return error(100, "Invalid parameter")
        if len(said.get("biz_opaque_callback_data", "")) > 512:
            return error(100, "biz_opaque_callback_data is too long")
        if kind == "template":
            found = said["template"]
            if set(found) != {"name", "language", "components"} or found["language"] != {"code": "de"}:
                return error(132001, "Template name does not exist in the translation")
            values = [one for part in found["components"] for one in part["parameters"] if one["type"] == "text"]
            if any(not one["text"] or "\n" in one["text"] or "    " in one["text"] for one in values):
                return error(132012, "Parameter format does not match")
        elif said["to"].endswith("24"):
            return error(131047, "Re-engagement message")
        self.taken.append(("whatsapp", said))
        contact = {"input": said["to"], "wa_id": said["to"]}
        message = {"id": f"wamid.{len(self.taken)}", "message_status": "accepted"}
        return web.json_response({"messaging_product": "whatsapp", "contacts": [contact], "messages": [message]})

    # twilio.com/docs/messaging/api/message-resource: create a Message
    async def _twilio(self, request: web.Request) -> web.Response:
        sid = request.match_info["sid"]
        login = base64.b64encode(f"{sid}:twilio-secret".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {login}":
            return self._refuse("login", 401, {"code": 20003, "message": "Authenticate", "status": 401})
        form = dict(urllib.parse.parse_qsl(await request.text(), strict_parsing=True))
        allowed = {"To", "From", "MessagingServiceSid", "Body", "StatusCallback", "ValidityPeriod"}
        if set(form) - allowed or not form.get("Body") or ("From" in form) == ("MessagingServiceSid" in form):
            return self._refuse("fields", 400, {"code": 21603, "message": "fields", "status": 400})
        if not re.fullmatch(r"\+[1-9]\d{6,14}", form["To"]) or form["To"].endswith("0000000"):
            words = f"The 'To' number {form['To']} is not a valid phone number."
            return self._refuse("number", 400, {"code": 21211, "message": words, "status": 400})
        if not 1 <= int(form["ValidityPeriod"]) <= 36_000:
            return self._refuse("validity", 400, {"code": 21000, "message": "validity", "status": 400})
        self.taken.append(("twilio", form))
        answer = {"sid": f"SM{len(self.taken):032x}", "status": "queued", "num_segments": "1", "error_code": None}
        return web.json_response(answer, status=201)

    # core.telegram.org/bots/api
    async def _telegram(self, request: web.Request) -> web.Response:
        if request.match_info["token"] != "123:bot":
            return self._refuse("token", 404, {"ok": False, "error_code": 404, "description": "Not Found"})
        body = await request.json()
        method = request.match_info["method"]
        text = {"sendMessage": "text", "sendPhoto": "caption"}.get(method)
        allowed = {"chat_id", "text", "photo", "caption", "reply_markup", "disable_notification"}
        if text is None or set(body) - allowed or not body.get(text):
            told = {"ok": False, "error_code": 400, "description": "Bad Request: message text is empty"}
            return self._refuse("fields", 400, told)
        if body["chat_id"] == 13:
            told = {"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}
            return self._refuse("blocked", 403, told)
        for row in body.get("reply_markup", {}).get("inline_keyboard", []):
            assert all(set(button) == {"text", "url"} for button in row)
        self.taken.append(("telegram", body))
        return web.json_response({"ok": True, "result": {"message_id": len(self.taken), "chat": {}, "date": 1}})

    # developers.google.com/identity/protocols/oauth2/service-account
    async def _google_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        token = jwt.decode(str(form["assertion"]), RSAKey.import_key(RSA_PEM), algorithms=["RS256"])
        claims = token.claims
        good = claims["iss"] == ACCOUNT and claims["aud"] == f"{self.url}/token"
        good = good and "firebase.messaging" in claims["scope"] and claims["exp"] - claims["iat"] <= 3600
        if not good or abs(claims["iat"] - time.time()) > 300:
            return self._refuse("assertion", 400, {"error": "invalid_grant"})
        self.tokens += 1
        return web.json_response({"access_token": f"ya29.{self.tokens}", "expires_in": 3599, "token_type": "Bearer"})

    # firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
    async def _fcm(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer ya29.{self.tokens}" or not self.tokens:
            return self._refuse("token", 401, _google_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"))
        body = await request.json()
        message = body["message"]
        allowed = {"token", "notification", "data", "android", "apns", "webpush"}
        good = set(body) <= {"message", "validate_only"} and set(message) <= allowed
        good = good and set(message["notification"]) <= {"title", "body", "image"}
        good = good and all(isinstance(value, str) for value in message["data"].values())
        good = good and re.fullmatch(r"\d+s", message["android"]["ttl"]) is not None
        if not good:
            return self._refuse("fields", 400, _google_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"))
        if message["token"].startswith("gone"):
            return self._refuse("gone", 404, _google_error(404, "NOT_FOUND", "UNREGISTERED"))
        self.taken.append(("fcm", message))
        return web.json_response({"name": f"projects/{request.match_info['project']}/messages/{len(self.taken)}"})

    # RFC 8030, 8291, 8292
    async def _webpush(self, request: web.Request) -> web.Response:
        match = re.fullmatch(r"vapid t=([\w.-]+), k=([\w-]+)", request.headers.get("Authorization", ""))
        if match is None:
            return self._refuse("vapid", 401, {})
        point = base64.urlsafe_b64decode(match[2] + "=" * (-len(match[2]) % 4))
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        claims = jwt.decode(match[1], ECKey.import_key(public), algorithms=["ES256"]).claims
        if claims["aud"] != self.url or not time.time() < claims["exp"] <= time.time() + 86_400 or "sub" not in claims:
            return self._refuse("claims", 403, {})
        headers = request.headers
        if headers["Content-Encoding"] != "aes128gcm" or not headers["TTL"].isdigit():
            return self._refuse("headers", 400, {})
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", headers["Topic"]):
            return self._refuse("topic", 400, {})
        sealed = await request.read()
        plain = http_ece.decrypt(sealed, private_key=self.browser, auth_secret=self.browser_auth, version="aes128gcm")
        self.taken.append(("webpush", json.loads(plain)))
        return web.Response(status=201, headers={"Location": f"{self.url}/message/{len(self.taken)}"})

    # github.com/standard-webhooks/standard-webhooks: spec
    async def _webhook(self, request: web.Request) -> web.Response:
        body = await request.read()
        ident, at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
        wanted = base64.b64encode(hmac.digest(key, f"{ident}.{at}.".encode() + body, "sha256")).decode()
        given = [one.removeprefix("v1,") for one in request.headers["webhook-signature"].split(" ")]
        if wanted not in given or abs(int(at) - time.time()) > 300:
            return self._refuse("signature", 401, {})
        self.taken.append(("webhook", json.loads(body)))
        return web.Response(status=204)

    async def _form(self, request: web.Request) -> web.Response:
        raw = await request.text()
        if request.content_type == "application/json":
            fields: Any = json.loads(raw)
        else:
            fields = dict(urllib.parse.parse_qsl(raw or request.query_string, keep_blank_values=True))
        self.taken.append(("form", {"fields": fields, "authorization": request.headers.get("Authorization", "")}))
        return web.json_response({"result": {"code": 0, "id": f"f-{len(self.taken)}"}})


WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def _google_error(code: int, status: str, fcm: str) -> dict[str, Any]:
    detail = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": fcm}
    return {"error": {"code": code, "message": "told", "status": status, "details": [detail]}}
