-- A purchase is counted once. A shop may tell of it twice, by `order.created` when it is placed and by `receipt.issued`, with the
-- order's `order_id`, when it is paid for or fetched; then the order counts, with its time and its total. A receipt without an
-- `order_id` is a purchase of its own.
CREATE OR REPLACE VIEW purchases AS
SELECT member_id, event_id, type, occurred_at, order_id, total, currency
FROM events
WHERE type = 'order.created'
    OR (type = 'receipt.issued' AND (member_id, order_id) NOT IN
        (SELECT member_id, order_id FROM events WHERE type = 'order.created' AND order_id != ''))
LIMIT 1 BY member_id, event_id;

-- Likewise of credits: where a message earned an order, no message earns its receipt again.
CREATE OR REPLACE VIEW attributed_purchases AS
SELECT * FROM attributions FINAL
WHERE conversion_type = 'order.created'
    OR (member_id, order_id) NOT IN
        (SELECT member_id, order_id FROM attributions WHERE conversion_type = 'order.created' AND order_id != '');

-- As in 0004, but for purchases.
CREATE OR REPLACE VIEW uplift AS
SELECT
    campaign, group,
    uniqExactIf(member_id, arm = 'treated') AS treated,
    uniqExactIf(member_id, arm = 'control') AS control,
    uniqExactIf(member_id, arm = 'treated' AND bought > 0) AS treated_buyers,
    uniqExactIf(member_id, arm = 'control' AND bought > 0) AS control_buyers,
    sumIf(bought, arm = 'treated') AS treated_orders,
    sumIf(bought, arm = 'control') AS control_orders,
    sumIf(worth, arm = 'treated') AS treated_value,
    sumIf(worth, arm = 'control') AS control_value,
    treated_buyers / nullIf(treated, 0) AS treated_rate,
    control_buyers / nullIf(control, 0) AS control_rate,
    treated_rate - control_rate AS uplift,
    sqrt(treated_rate * (1 - treated_rate) / nullIf(treated, 0) + control_rate * (1 - control_rate) / nullIf(control, 0)) AS uplift_error
FROM
(
    SELECT
        x.campaign AS campaign, x.group AS group, x.member_id AS member_id, any(x.arm) AS arm,
        uniqExactIf(e.event_id, e.event_id != '' AND e.occurred_at >= x.exposed_at
            AND e.occurred_at < x.exposed_at + toIntervalMillisecond(x.window_ms)) AS bought,
        sumIf(ifNull(e.total, 0), e.event_id != '' AND e.occurred_at >= x.exposed_at
            AND e.occurred_at < x.exposed_at + toIntervalMillisecond(x.window_ms)) AS worth
    FROM exposures AS x
    LEFT JOIN purchases AS e ON e.member_id = x.member_id
    GROUP BY x.campaign, x.group, x.member_id
)
GROUP BY campaign, group;

-- As in 0004, but for purchases.
CREATE OR REPLACE VIEW variant_results AS
SELECT
    campaign, step, variant,
    uniqExact(command_id) AS messages,
    uniqExactIf(command_id, delivered) AS delivered,
    uniqExactIf(command_id, opened) AS opened,
    uniqExactIf(command_id, clicked) AS clicked,
    uniqExactIf(command_id, orders > 0) AS converted,
    sum(orders) AS orders_attributed,
    sum(worth) AS value
FROM
(
    SELECT
        m.campaign AS campaign, m.step AS step, m.variant AS variant, m.command_id AS command_id,
        r.delivered AS delivered, r.opened AS opened, r.clicked AS clicked, a.orders AS orders, a.worth AS worth
    FROM
    (
        SELECT campaign, step, variant, command_id FROM messages
        WHERE kind = 'send' AND variant != '' GROUP BY campaign, step, variant, command_id
    ) AS m
    LEFT JOIN
    (
        -- The axes of campaign_funnel: who clicked has opened, what was opened was delivered.
        SELECT
            command_id,
            max(status = 'clicked' AND machine = 0) AS clicked,
            clicked OR max(status IN ('opened', 'read', 'replied', 'answered') AND machine = 0) AS opened,
            max(status = 'delivered' OR startsWith(type, 'engagement.')) AS delivered
        FROM receipts GROUP BY command_id
    ) AS r ON r.command_id = m.command_id
    LEFT JOIN
    (
        SELECT command_id, uniqExact(conversion_event_id) AS orders, ifNull(sum(value), 0) AS worth
        FROM attributed_purchases GROUP BY command_id
    ) AS a ON a.command_id = m.command_id
)
GROUP BY campaign, step, variant;

-- As in 0003, but for purchases.
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
    FROM attributed_purchases GROUP BY campaign, word
)
WHERE campaign != ''
GROUP BY campaign;
