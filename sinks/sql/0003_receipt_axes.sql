-- Machines told apart, the funnel to its end, cascades. What a scanner opens or clicks stays in `receipts`, marked.
ALTER TABLE receipts ADD COLUMN IF NOT EXISTS machine UInt8
    DEFAULT status IN ('opened', 'clicked') AND reason IN ('head', 'prefetch', 'no_user_agent', 'robot', 'loader', 'too_soon')
    CODEC(ZSTD(1)) COMMENT '1: opened or clicked by a machine; reason says by what it was known';

-- One row per campaign, from decision to money. Every number counts distinct ids (or reads FINAL), so rows that came twice and are
-- not merged yet change nothing, nor does their order. Per message the receipts are taken together, each axis by its partial order:
-- who clicked has opened, what was opened (by a machine, too) was delivered, what was delivered was sent, and what was delivered
-- after all did not fail. `opened` and `clicked` are by people. `held` messages are also among those decided, once they are.
-- Steps that are no messages (points, tags, segments) are left out.
CREATE OR REPLACE VIEW campaign_funnel AS
SELECT
    campaign,
    sumIf(n, what IN ('eligible', 'suppressed')) AS decided,
    sumIf(n, what = 'eligible')                  AS eligible,
    sumIf(n, what = 'held')                      AS held,
    sumIf(n, what = 'suppressed')                AS suppressed,
    CAST(mapFromArrays(groupArrayIf(word, what = 'held'), groupArrayIf(n, what = 'held')), 'Map(String, UInt64)') AS held_by_reason,
    CAST(mapFromArrays(groupArrayIf(word, what = 'suppressed'), groupArrayIf(n, what = 'suppressed')),
         'Map(String, UInt64)')                  AS suppressed_by_reason,
    sumIf(n, what = 'commanded')                 AS commanded,
    sumIf(n, what = 'sent')                      AS sent,
    sumIf(n, what = 'delivered')                 AS delivered,
    sumIf(n, what = 'opened')                    AS opened,
    sumIf(n, what = 'clicked')                   AS clicked,
    sumIf(n, what = 'opened by machines')        AS opened_by_machines,
    sumIf(n, what = 'clicked by machines')       AS clicked_by_machines,
    sumIf(n, what = 'failed')                    AS failed,
    sumIf(n, what = 'complained')                AS complained,
    sumIf(n, what = 'unsubscribed')              AS unsubscribed,
    sumIf(n, what = 'orders')                    AS orders_attributed,
    CAST(mapFromArrays(groupArrayIf(word, what = 'orders'), groupArrayIf(worth, what = 'orders')),
         'Map(String, Float64)')                 AS value_by_currency
FROM
(
    SELECT campaign, CAST(outcome, 'String') AS what, CAST(reason, 'String') AS word, uniqExact(decision_id) AS n, toFloat64(0) AS worth
    FROM decisions WHERE outcome IN ('eligible', 'suppressed') AND reason NOT IN ('no_points', 'marks_full')
    GROUP BY campaign, what, word
    UNION ALL
    SELECT campaign, 'held', CAST(reason, 'String') AS word, uniqExact(if(command_id = '', instance_id, command_id)), toFloat64(0)
    FROM decisions WHERE outcome = 'held' AND NOT (reason = 'paused' AND channel = '') GROUP BY campaign, word
    UNION ALL
    SELECT campaign, 'commanded', '', uniqExact(command_id), toFloat64(0) FROM messages WHERE kind = 'send' GROUP BY campaign
    UNION ALL
    SELECT campaign, arrayJoin(stages) AS what, '', count(), toFloat64(0)
    FROM
    (
        SELECT
            campaign,
            command_id,
            max(status = 'clicked' AND machine = 0) AS by_click,
            by_click OR max(status IN ('opened', 'read', 'replied', 'answered') AND machine = 0) AS by_eye,
            max(status = 'delivered' OR startsWith(type, 'engagement.')) AS came,
            arrayFilter(stage -> stage != '',
            [
                if(came OR max(status = 'sent'), 'sent', ''),
                if(came, 'delivered', ''),
                if(by_eye, 'opened', ''),
                if(by_click, 'clicked', ''),
                if(max(status = 'opened' AND machine = 1), 'opened by machines', ''),
                if(max(status = 'clicked' AND machine = 1), 'clicked by machines', ''),
                if(NOT came AND max(status IN ('bounced', 'failed', 'rejected', 'undelivered', 'expired')), 'failed', ''),
                if(max(status = 'complained'), 'complained', '')
            ]) AS stages
        FROM receipts WHERE command_id != '' GROUP BY campaign, command_id
    )
    GROUP BY campaign, what
    UNION ALL
    -- A one-click unsubscribe is a `consent.revoked` whose proof is the message that held the link.
    SELECT campaign, 'unsubscribed', '', uniqExact(command_id), toFloat64(0)
    FROM
    (
        SELECT campaign, command_id FROM receipts WHERE status = 'unsubscribed'
        UNION ALL
        SELECT campaign, command_id FROM messages
        WHERE kind = 'send' AND command_id IN
        (
            SELECT JSONExtractString(data, 'proof') FROM events
            WHERE type = 'consent.revoked' AND JSONExtractString(data, 'source') IN ('one-click', 'preference-centre')
        )
    )
    GROUP BY campaign
    UNION ALL
    SELECT campaign, 'orders', CAST(currency, 'String') AS word, uniqExact(conversion_event_id), ifNull(sum(value), 0)
    FROM attributions FINAL GROUP BY campaign, word
)
WHERE campaign != ''
GROUP BY campaign;

-- One row per cascade of a journey: how many of its legs were sent, and how many were delivered. Two are a double delivery.
CREATE OR REPLACE VIEW cascades AS
SELECT
    campaign,
    splitByChar('.', CAST(step, 'String'))[1] AS step,
    instance_id,
    any(member_id) AS member_id,
    min(decided_at) AS began_at,
    arrayDistinct(groupArray(channel)) AS channels,
    uniqExact(command_id) AS sent,
    uniqExactIf(command_id, command_id IN
        (SELECT command_id FROM receipts WHERE status = 'delivered' OR startsWith(type, 'engagement.'))) AS delivered
FROM messages
WHERE kind = 'send' AND position(messages.step, '.') > 0
GROUP BY campaign, step, instance_id;
