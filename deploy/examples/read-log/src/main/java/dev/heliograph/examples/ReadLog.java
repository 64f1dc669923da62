package dev.heliograph.examples;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Prints every message of a tenant, session by session, in order, each once. */
public final class ReadLog {
  private static final String MESSAGE = "dev.heliograph.message";
  private static final String OWN = "dev.heliograph.";

  public static void main(String[] arguments) {
    String prefix = System.getenv().getOrDefault("HELIOGRAPH_TOPIC_PREFIX", "heliograph");
    String topic = prefix + "." + arguments[0] + ".log";
    Map<String, Object> settings = Map.of(
        "bootstrap.servers", System.getenv("HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS"),
        "enable.auto.commit", false);
    // Session → position → record. Positions sort as text; an equal one is the same message written twice.
    Map<String, Map<String, ConsumerRecord<String, byte[]>>> sessions = new TreeMap<>();

    try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
          .map(info -> new TopicPartition(topic, info.partition()))
          .toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
      while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
        for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
          String position = header(record, "ce_sequence");
          String type = header(record, "ce_type");
          if (position != null && (type.equals(MESSAGE) || !type.startsWith(OWN))) {
            sessions.computeIfAbsent(record.key(), key -> new TreeMap<>()).putIfAbsent(position, record);
          }
        }
      }
    }

    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    sessions.forEach((session, messages) -> messages.forEach((position, record) ->
        out.println(String.join(" ", session, position, header(record, "ce_type"), text(record.value())))));
    out.flush();
  }

  private static String header(ConsumerRecord<String, byte[]> record, String name) {
    Header found = record.headers().lastHeader(name);
    return found == null ? null : text(found.value());
  }

  private static String text(byte[] utf8) {
    return new String(utf8, StandardCharsets.UTF_8);
  }

  private ReadLog() {}
}
