-- Tables of the sink. One rule for all of them: a row's key ends in the deterministic id of what it tells, so a row that
-- comes twice is one row after a merge. Count with FINAL or uniqExact(id), never with a bare count().
--
-- non_replicated_deduplication_window: how many recent blocks remember their deduplication token. The sink inserts the last
-- range of each partition again after a crash; 1000 blocks cover that range many times over. Replicated tables have a window
-- of their own by default.
-- Partitions are months of log time, which a broker keeps near the wall clock. Event time could open a partition per garbage value.
-- Nothing expires by itself. To keep 400 days: ALTER TABLE events MODIFY TTL toDateTime(appended_at) + INTERVAL 400 DAY

-- Every event except ticks, control records and receipts included. `seniority` falls with the offset, so of two events with one id
-- the first in the log stays, as the engine sees it.
CREATE TABLE IF NOT EXISTS events
(
    event_id        String                  CODEC(ZSTD(1)),
    type            LowCardinality(String),
    member_id       String                  CODEC(ZSTD(1)) COMMENT 'empty: not known (yet)',
    anonymous_id    String                  CODEC(ZSTD(1)),
    occurred_at     DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)),
    appended_at     DateTime64(3, 'UTC')    CODEC(Delta, ZSTD(1)) COMMENT 'the log''s own time',
    source          LowCardinality(String),
    tenant          LowCardinality(String),
    correlation_key String                  CODEC(ZSTD(1)),
    schema_version  UInt32                  CODEC(ZSTD(1)),
    product_id      String                  CODEC(ZSTD(1)) COMMENT 'data.product_id; items of an order are in data',
    category        LowCardinality(String),
    order_id        String                  CODEC(ZSTD(1)),
    price           Nullable(Float64)       CODEC(ZSTD(1)),
    quantity        Nullable(Float64)       CODEC(ZSTD(1)),
    total           Nullable(Float64)       CODEC(ZSTD(1)),
    currency        LowCardinality(String),
    data            String                  CODEC(ZSTD(3)) COMMENT 'JSON as it came',
    context         String                  CODEC(ZSTD(3)) COMMENT 'JSON, empty when there is none',
    log_partition   UInt32                  CODEC(ZSTD(1)),
    log_offset      UInt64                  CODEC(Delta, ZSTD(1)),
    seniority       UInt64                  DEFAULT 18446744073709551615 - log_offset CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(seniority)
PARTITION BY toYYYYMM(appended_at)
ORDER BY (type, member_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000;

-- Campaign first: nearly every question is about one campaign, or groups by it.
CREATE TABLE IF NOT EXISTS decisions
(
    decision_id   String                        CODEC(ZSTD(1)),
    campaign      LowCardinality(String),
    version       LowCardinality(String),
    member_id     String                        CODEC(ZSTD(1)),
    instance_id   String                        CODEC(ZSTD(1)),
    command_id    String                        CODEC(ZSTD(1)),
    outcome       LowCardinality(String),
    reason        LowCardinality(String),
    channel       LowCardinality(String),
    decided_at    DateTime64(3, 'UTC')          CODEC(Delta, ZSTD(1)),
    caused_at     DateTime64(3, 'UTC')          CODEC(Delta, ZSTD(1)) COMMENT 'append time of the record that decided it',
    due_at        Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    anchor        String                        CODEC(ZSTD(1)) COMMENT 'event_id of the first step',
    completed_by  String                        CODEC(ZSTD(1)),
    correlation   String                        CODEC(ZSTD(1)) COMMENT 'JSON value, list or null',
    inputs        String                        CODEC(ZSTD(3)) COMMENT 'JSON: what the decision looked at',
    log_partition UInt32                        CODEC(ZSTD(1)),
    log_offset    UInt64                        CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(decided_at)
ORDER BY (campaign, member_id, decision_id)
SETTINGS non_replicated_deduplication_window = 1000;

-- Commands to send and to cancel. The address and the member's profile stay out: analysts need neither.
CREATE TABLE IF NOT EXISTS messages
(
    command_id            String                        CODEC(ZSTD(1)),
    kind                  LowCardinality(String)        COMMENT 'send or cancel',
    campaign              LowCardinality(String),
    version               LowCardinality(String),
    member_id             String                        CODEC(ZSTD(1)),
    instance_id           String                        CODEC(ZSTD(1)),
    step                  LowCardinality(String),
    channel               LowCardinality(String),
    template              LowCardinality(String),
    category              LowCardinality(String),
    reason                LowCardinality(String)        COMMENT 'of a cancel',
    decided_at            DateTime64(3, 'UTC')          CODEC(Delta, ZSTD(1)),
    caused_at             DateTime64(3, 'UTC')          CODEC(Delta, ZSTD(1)),
    expires_at            Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1)),
    anchor                String                        CODEC(ZSTD(1)),
    attribution_window_ms UInt64                        CODEC(ZSTD(1)),
    data                  String                        CODEC(ZSTD(3)) COMMENT 'JSON: values of the template',
    log_partition         UInt32                        CODEC(ZSTD(1)),
    log_offset            UInt64                        CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(decided_at)
ORDER BY (campaign, member_id, command_id, kind)
SETTINGS non_replicated_deduplication_window = 1000;

-- What became of messages: the events delivery.* and engagement.*, by campaign.
CREATE TABLE IF NOT EXISTS receipts
(
    event_id            String               CODEC(ZSTD(1)),
    type                LowCardinality(String),
    status              LowCardinality(String) COMMENT 'the last word of type',
    campaign            LowCardinality(String),
    version             LowCardinality(String),
    member_id           String               CODEC(ZSTD(1)),
    command_id          String               CODEC(ZSTD(1)),
    instance_id         String               CODEC(ZSTD(1)),
    channel             LowCardinality(String),
    template            LowCardinality(String),
    attempt             UInt32               CODEC(ZSTD(1)),
    provider            LowCardinality(String),
    provider_message_id String               CODEC(ZSTD(1)),
    code                LowCardinality(String),
    reason              LowCardinality(String),
    occurred_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    appended_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    log_partition       UInt32               CODEC(ZSTD(1)),
    log_offset          UInt64               CODEC(Delta, ZSTD(1)),
    seniority           UInt64               DEFAULT 18446744073709551615 - log_offset CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(seniority)
PARTITION BY toYYYYMM(appended_at)
ORDER BY (campaign, member_id, command_id, event_id)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS attributions
(
    attribution_id      String               CODEC(ZSTD(1)),
    campaign            LowCardinality(String),
    version             LowCardinality(String),
    member_id           String               CODEC(ZSTD(1)),
    instance_id         String               CODEC(ZSTD(1)),
    command_id          String               CODEC(ZSTD(1)),
    channel             LowCardinality(String),
    model               LowCardinality(String),
    touch               LowCardinality(String),
    touched_at          DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    conversion_event_id String               CODEC(ZSTD(1)),
    conversion_type     LowCardinality(String),
    converted_at        DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    caused_at           DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    value               Nullable(Float64)    CODEC(ZSTD(1)),
    currency            LowCardinality(String),
    order_id            String               CODEC(ZSTD(1)),
    log_partition       UInt32               CODEC(ZSTD(1)),
    log_offset          UInt64               CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(caused_at)
ORDER BY (campaign, member_id, attribution_id)
SETTINGS non_replicated_deduplication_window = 1000;

-- Records the sink could not read: where they stand and why, never their bytes. Bad events are in the topic dead-letters as well.
CREATE TABLE IF NOT EXISTS undecodable
(
    topic         LowCardinality(String),
    log_partition UInt32,
    log_offset    UInt64,
    reason        LowCardinality(String),
    appended_at   DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (topic, log_partition, log_offset)
SETTINGS non_replicated_deduplication_window = 1000;
