-- One row per campaign, from decision to money. Every number counts distinct ids (or reads FINAL), so rows that came twice and are
-- not merged yet change nothing. An ordinary view: a summing materialized view would count a repeated block twice.
CREATE OR REPLACE VIEW campaign_funnel AS
SELECT
    campaign,
    sum(decided)            AS decided,
    sum(eligible)           AS eligible,
    sum(suppressed)         AS suppressed,
    sumMap(by_reason)       AS suppressed_by_reason,
    sum(commanded)          AS commanded,
    sum(sent)               AS sent,
    sum(delivered)          AS delivered,
    sum(opened)             AS opened,
    sum(clicked)            AS clicked,
    sum(failed)             AS failed,
    sum(orders)             AS orders_attributed,
    sumMap(worth)           AS value_by_currency
FROM
(
    SELECT
        campaign, sum(n) AS decided, sumIf(n, outcome = 'eligible') AS eligible, sumIf(n, outcome = 'suppressed') AS suppressed,
        CAST(mapFromArrays(groupArrayIf(reason, outcome = 'suppressed'), groupArrayIf(n, outcome = 'suppressed')),
             'Map(String, UInt64)') AS by_reason,
        0 AS commanded, 0 AS sent, 0 AS delivered, 0 AS opened, 0 AS clicked, 0 AS failed, 0 AS orders,
        CAST(map(), 'Map(String, Float64)') AS worth
    FROM
    (
        SELECT campaign, outcome, CAST(reason, 'String') AS reason, uniqExact(decision_id) AS n
        FROM decisions GROUP BY campaign, outcome, reason
    )
    GROUP BY campaign
    UNION ALL
    SELECT campaign, 0, 0, 0, CAST(map(), 'Map(String, UInt64)'), uniqExactIf(command_id, kind = 'send'), 0, 0, 0, 0, 0, 0,
        CAST(map(), 'Map(String, Float64)')
    FROM messages GROUP BY campaign
    UNION ALL
    SELECT campaign, 0, 0, 0, CAST(map(), 'Map(String, UInt64)'), 0,
        uniqExactIf(command_id, status IN ('sent', 'delivered')),
        uniqExactIf(command_id, status = 'delivered'),
        uniqExactIf(command_id, status IN ('opened', 'read')),
        uniqExactIf(command_id, status = 'clicked'),
        uniqExactIf(command_id, status IN ('bounced', 'failed', 'rejected', 'undelivered', 'expired')),
        0, CAST(map(), 'Map(String, Float64)')
    FROM receipts GROUP BY campaign
    UNION ALL
    SELECT campaign, 0, 0, 0, CAST(map(), 'Map(String, UInt64)'), 0, 0, 0, 0, 0, 0, sum(n),
        CAST(mapFromArrays(groupArray(currency), groupArray(amount)), 'Map(String, Float64)')
    FROM
    (
        SELECT campaign, CAST(currency, 'String') AS currency, uniqExact(conversion_event_id) AS n, ifNull(sum(value), 0) AS amount
        FROM attributions FINAL GROUP BY campaign, currency
    )
    GROUP BY campaign
)
WHERE campaign != ''
GROUP BY campaign;
