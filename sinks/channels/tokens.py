"""What authorizes calls and changes with time: signed tokens (JWT, by joserfc), remembered until near their end."""

import asyncio
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from schemas.errors import OperatorError
from sinks.channels.apns import ApnsSettings
from sinks.channels.base import HttpRequest
from sinks.channels.fcm import SCOPE, ServiceAccount
from sinks.channels.http import AuthorizationFailed, Authorize, HttpClient
from sinks.channels.webpush import WebPushSettings, public_text, vapid_key

GOOGLE_TOKEN_S = 3_600  # the longest that Google takes
RENEW_S = 300  # before its end
APNS_TOKEN_S = 2_400  # Apple wants a new one every 20 to 60 minutes
VAPID_TOKEN_S = 43_200  # RFC 8292 §2: 24 hours at most
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

Clock = Callable[[], float]


class _Token(msgspec.Struct):
    access_token: str
    expires_in: int = GOOGLE_TOKEN_S


class GoogleTokens:
    """Access tokens of a service account (RFC 7523): one request an hour, whatever the number of calls."""

    def __init__(self, account: ServiceAccount, client: HttpClient, clock: Clock = time.time) -> None:
        self._account = account
        self._client = client
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token, self._until = "", 0.0
        try:
            self._key = RSAKey.import_key(account.private_key)
        except (JoseError, ValueError):
            raise OperatorError(
                "fcm service_account: private_key is no RSA key in PEM (got something else); take the JSON file as"
                " Google gives it"
            ) from None

    async def __call__(self, request: HttpRequest) -> Mapping[str, str]:
        """Return the header of a call."""
        async with self._lock:
            if self._clock() >= self._until - RENEW_S:
                await self._renew()
        return {"Authorization": f"Bearer {self._token}"}

    async def _renew(self) -> None:
        reply = await self._client.exchange(token_request(self._account, self._key, int(self._clock())), {})
        if reply.status != 200:
            raise AuthorizationFailed("token_refused" if reply.status < 500 else "token_endpoint_error")
        try:
            token = msgspec.json.decode(reply.body, type=_Token)
        except msgspec.MsgspecError:
            raise AuthorizationFailed("token_unreadable") from None
        self._token, self._until = token.access_token, self._clock() + token.expires_in


def token_request(account: ServiceAccount, key: RSAKey, now_s: int) -> HttpRequest:
    """Make the request for an access token: a JWT signed by the account's key."""
    header = {"alg": "RS256", "typ": "JWT"} | ({"kid": account.private_key_id} if account.private_key_id else {})
    claims = {
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": now_s,
        "exp": now_s + GOOGLE_TOKEN_S,
    }
    form = {"grant_type": GRANT, "assertion": jwt.encode(header, claims, key)}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return HttpRequest("POST", account.token_uri, headers, urlencode(form).encode())


def apns_tokens(settings: ApnsSettings, clock: Clock = time.time) -> Authorize:
    """Return what adds the team's token, made anew every 40 minutes.

    Raises:
        OperatorError: the key is none.
    """
    try:
        key = ECKey.import_key(settings.key)
    except (JoseError, ValueError):
        raise OperatorError("apns key: no EC key in PEM (got something else); take the .p8 file's text") from None
    made: list[tuple[float, str]] = []

    async def authorize(request: HttpRequest) -> Mapping[str, str]:
        now = clock()
        if not made or now >= made[0][0] + APNS_TOKEN_S:
            claims = {"iss": settings.team_id, "iat": int(now)}
            made[:] = [(now, jwt.encode({"alg": "ES256", "kid": settings.key_id}, claims, key))]
        return {"authorization": f"bearer {made[0][1]}"}

    return authorize


def vapid_tokens(settings: WebPushSettings, clock: Clock = time.time) -> Authorize:
    """Return what adds our token for the push service of the request, made anew twice a day.

    Raises:
        OperatorError: the key is none, or the subject no contact.
    """
    own = vapid_key(settings.private_key)
    if not settings.subject.startswith(("mailto:", "https:")):
        raise OperatorError("web push subject: must be mailto:… or https:… (got something else); set your contact")
    key, public = ECKey.import_key(own), public_text(own)
    made: dict[str, tuple[float, str]] = {}

    async def authorize(request: HttpRequest) -> Mapping[str, str]:
        now = clock()
        parts = urlsplit(request.url)
        audience = f"{parts.scheme}://{parts.netloc}"
        until, token = made.get(audience, (0.0, ""))
        if now >= until - VAPID_TOKEN_S / 2:
            until = now + VAPID_TOKEN_S
            token = jwt.encode(
                {"alg": "ES256", "typ": "JWT"}, {"aud": audience, "exp": int(until), "sub": settings.subject}, key
            )
            made[audience] = until, token
        return {"Authorization": f"vapid t={token}, k={public}"}

    return authorize
