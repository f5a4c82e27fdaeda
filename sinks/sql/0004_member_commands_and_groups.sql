-- Which of several texts a message has, so that an A/B test is read by SQL; '' for messages of one text and from before this column.
ALTER TABLE messages ADD COLUMN IF NOT EXISTS variant LowCardinality(String) COMMENT 'the text chosen of several';

-- Commands about members that are no messages: points, tags, segments.
CREATE TABLE IF NOT EXISTS member_commands
(
    command_id    String                          CODEC(ZSTD(1)),
    kind          LowCardinality(String)          COMMENT 'AccruePoints, UpdateTags or UpdateSegments',
    campaign      LowCardinality(String),
    version       LowCardinality(String),
    member_id     String                          CODEC(ZSTD(1)),
    instance_id   String                          CODEC(ZSTD(1)),
    step          LowCardinality(String),
    points        Nullable(Float64)               CODEC(ZSTD(1)),
    reason        LowCardinality(String),
    expires_at    Nullable(DateTime64(3, 'UTC'))  CODEC(ZSTD(1)),
    added         Array(String)                   CODEC(ZSTD(1)),
    removed       Array(String)                   CODEC(ZSTD(1)),
    decided_at    DateTime64(3, 'UTC')            CODEC(Delta, ZSTD(1)),
    caused_at     DateTime64(3, 'UTC')            CODEC(Delta, ZSTD(1)),
    anchor        String                          CODEC(ZSTD(1)),
    log_partition UInt32                          CODEC(ZSTD(1)),
    log_offset    UInt64                          CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(decided_at)
ORDER BY (campaign, member_id, command_id)
SETTINGS non_replicated_deduplication_window = 1000;

-- Who was in which arm of an experiment, and since when: one row per campaign, group and member. Groups: 'control' and
-- 'holdout:NAME' of a campaign, taken at its firing, whatever became of the message; 'all:SALT', the control group of the policies,
-- taken when the arbiter came as far as asking, so alike in both arms. Of a member that was exposed several times the first counts.
CREATE OR REPLACE VIEW exposures AS
SELECT campaign, group, member_id, argMin(arm, at) AS arm, min(at) AS exposed_at, argMin(window_ms, at) AS window_ms
FROM
(
    SELECT
        campaign, member_id, decided_at AS at,
        JSONExtractString(entry, 'group') AS group,
        JSONExtractString(entry, 'arm') AS arm,
        JSONExtractUInt(entry, 'window_ms') AS window_ms
    FROM (SELECT campaign, member_id, decided_at, arrayJoin(JSONExtractArrayRaw(inputs, 'exposures')) AS entry
          FROM decisions WHERE JSONHas(inputs, 'exposures'))
    UNION ALL
    SELECT
        campaign, member_id, decided_at,
        concat('all:', JSONExtractString(inputs, 'control_group', 'salt')),
        if(reason = 'control', 'control', 'treated'),
        432000000
    FROM decisions
    WHERE JSONHas(inputs, 'control_group') AND outcome IN ('eligible', 'suppressed')
)
GROUP BY campaign, group, member_id;

-- Uplift by intention to treat: of each arm the members, those who ordered within the campaign's attribution window after their
-- exposure, their orders and what these are worth in sum (over all currencies; for several, query events yourself).
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
    LEFT JOIN
    (
        SELECT member_id, event_id, any(occurred_at) AS occurred_at, any(total) AS total
        FROM events WHERE type IN ('order.created', 'receipt.issued') GROUP BY member_id, event_id
    ) AS e ON e.member_id = x.member_id
    GROUP BY x.campaign, x.group, x.member_id
)
GROUP BY campaign, group;

-- A/B tests: what became of each text of a step, from message to money; opens and clicks by people.
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
        FROM attributions FINAL GROUP BY command_id
    ) AS a ON a.command_id = m.command_id
)
GROUP BY campaign, step, variant;
