// Flink's own CEP on the JVM, parallelism 1, state on the heap: a view not followed by an order or view of its product.

import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.cep.CEP;
import org.apache.flink.cep.PatternSelectFunction;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.conditions.SimpleCondition;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.Collector;

public class FlinkCep {
    public static class Shown {
        public boolean viewed;
        public String member;
        public String product;
        public String eventId;

        public Shown() {}
    }

    private static final ObjectMapper JSON = new ObjectMapper();

    private static void read(String line, Collector<Shown> out) throws Exception {
        JsonNode said = JSON.readTree(line);
        String type = said.get("type").asText();
        if (type.equals("catalog.product.viewed")) {
            out.collect(shown(said, said.get("data").get("product_id").asText(), true));
        } else if (type.equals("order.created")) {
            for (JsonNode item : said.get("data").get("items")) {
                out.collect(shown(said, item.get("product_id").asText(), false));
            }
        }
    }

    private static Shown shown(JsonNode said, String product, boolean viewed) {
        Shown shown = new Shown();
        shown.viewed = viewed;
        shown.member = said.get("member_id").asText();
        shown.product = product;
        shown.eventId = said.get("event_id").asText();
        return shown;
    }

    public static void main(String[] args) throws Exception {
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        env.setParallelism(1);
        env.getConfig().enableObjectReuse();
        KafkaSource<String> source = KafkaSource.<String>builder()
            .setBootstrapServers(args[0]).setTopics(args[1]).setGroupId("flink-cep")
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setValueOnlyDeserializer(new SimpleStringSchema()).build();
        DataStream<String> lines = env.fromSource(
            source, WatermarkStrategy.forBoundedOutOfOrderness(Duration.ofSeconds(5)), "events");
        DataStream<Shown> events = lines
            .flatMap((String line, Collector<Shown> out) -> read(line, out)).returns(TypeInformation.of(Shown.class));
        Pattern<Shown, ?> pattern = Pattern.<Shown>begin("view", AfterMatchSkipStrategy.noSkip())
            .where(SimpleCondition.of(shown -> shown.viewed))
            .notFollowedBy("breaker").where(SimpleCondition.of(shown -> true))
            .within(Duration.ofHours(2));
        DataStream<String> commands = CEP
            .pattern(events.keyBy(shown -> shown.member + "/" + shown.product), pattern)
            .select(new PatternSelectFunction<Shown, String>() {
                @Override
                public String select(Map<String, List<Shown>> match) {
                    Shown view = match.get("view").get(0);
                    return "{\"member_id\":\"" + view.member + "\",\"anchor\":\"" + view.eventId + "\"}";
                }
            });
        commands.sinkTo(KafkaSink.<String>builder()
            .setBootstrapServers(args[0]).setDeliveryGuarantee(DeliveryGuarantee.NONE)
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                .setTopic(args[2]).setValueSerializationSchema(new SimpleStringSchema()).build())
            .build());
        env.execute("cep");
    }
}
