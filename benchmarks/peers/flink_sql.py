"""Flink SQL through PyFlink, parallelism 1, state on the JVM's heap: an interval join that found no partner."""

import sys

from pyflink.table import EnvironmentSettings, TableEnvironment

bootstrap, events_name, commands_name, _place, jar = sys.argv[1:6]

env = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
env.get_config().set("parallelism.default", "1").set("pipeline.jars", f"file://{jar}")
env.get_config().set("table.local-time-zone", "UTC")
env.execute_sql(f"""
    CREATE TABLE events (
        `type` STRING, member_id STRING, event_id STRING,
        `data` ROW<product_id STRING, items ARRAY<ROW<product_id STRING>>>,
        ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp',
        WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
    ) WITH ('connector' = 'kafka', 'topic' = '{events_name}', 'properties.bootstrap.servers' = '{bootstrap}',
            'scan.startup.mode' = 'earliest-offset', 'format' = 'json', 'json.ignore-parse-errors' = 'true')
""")
env.execute_sql(f"""
    CREATE TABLE commands (member_id STRING, anchor STRING)
    WITH ('connector' = 'kafka', 'topic' = '{commands_name}', 'properties.bootstrap.servers' = '{bootstrap}',
          'format' = 'json')
""")
env.execute_sql("""
    CREATE TEMPORARY VIEW looks AS
    SELECT member_id, `data`.product_id AS product_id, event_id, ts FROM events WHERE `type` = 'catalog.product.viewed'
""")
env.execute_sql("""
    CREATE TEMPORARY VIEW orders AS
    SELECT member_id, event_id, ts, `data`.items AS items FROM events WHERE `type` = 'order.created'
""")
env.execute_sql("""
    CREATE TEMPORARY VIEW breakers AS
    SELECT member_id, `data`.product_id AS product_id, event_id, ts FROM events WHERE `type` = 'catalog.product.viewed'
    UNION ALL
    SELECT member_id, item.product_id, event_id, ts FROM orders CROSS JOIN UNNEST(items) AS item (product_id)
""")
env.execute_sql("""
    INSERT INTO commands
    SELECT v.member_id, v.event_id FROM looks v LEFT JOIN breakers b
    ON v.member_id = b.member_id AND v.product_id = b.product_id
       AND b.ts > v.ts AND b.ts < v.ts + INTERVAL '2' HOUR
    WHERE b.event_id IS NULL
""").wait()
