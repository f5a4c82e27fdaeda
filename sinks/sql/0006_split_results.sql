-- Ways of a split: how many journeys took each, and how many of them reached the campaign's goal. One row per way.
CREATE OR REPLACE VIEW split_results AS
SELECT
    campaign, step, way,
    uniqExact(instance_id) AS journeys,
    uniqExactIf(instance_id, ended = 'goal') AS reached_goal,
    uniqExactIf(instance_id, ended != '' AND ended != 'goal') AS ended_otherwise,
    journeys - reached_goal - ended_otherwise AS running
FROM
(
    SELECT s.campaign AS campaign, s.step AS step, s.way AS way, s.instance_id AS instance_id, e.ended AS ended
    FROM
    (
        SELECT
            campaign, instance_id,
            JSONExtractString(inputs, 'step') AS step,
            JSONExtractString(inputs, 'variant') AS way
        FROM decisions WHERE outcome = 'assigned' AND reason = 'split'
        GROUP BY campaign, instance_id, step, way
    ) AS s
    LEFT JOIN
    (
        SELECT instance_id, any(reason) AS ended
        FROM decisions WHERE outcome IN ('exited', 'completed') GROUP BY instance_id
    ) AS e ON e.instance_id = s.instance_id
)
GROUP BY campaign, step, way;
