package lakehouse.capture;

import java.util.List;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SourceSplit;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.core.io.SimpleVersionedSerializer;

/**
 * The WAL of the source, through one replication slot, as a Flink source (FLIP-27) of events.
 *
 * <p>A slot can't be split, so there is one split, and its state is empty: where to go on from is
 * what the lake holds (see {@link WalReader}), whatever checkpoints there are or were.
 */
public final class WalSource implements Source<Event, WalSource.Slot, Void> {
    private final Options options;

    public WalSource(Options options) {
        this.options = options;
    }

    /** The whole slot, by its name. */
    public record Slot(String splitId) implements SourceSplit {}

    @Override
    public Boundedness getBoundedness() {
        return Boundedness.CONTINUOUS_UNBOUNDED;
    }

    @Override
    public SourceReader<Event, Slot> createReader(SourceReaderContext context) {
        return new WalReader(options);
    }

    @Override
    public SplitEnumerator<Slot, Void> createEnumerator(SplitEnumeratorContext<Slot> context) {
        return new Assigning(context);
    }

    @Override
    public SplitEnumerator<Slot, Void> restoreEnumerator(
            SplitEnumeratorContext<Slot> context, Void checkpoint) {
        return new Assigning(context);
    }

    /** Gives the slot to the first reader, of which there is one; each attempt has it anew. */
    private final class Assigning implements SplitEnumerator<Slot, Void> {
        private final SplitEnumeratorContext<Slot> context;

        Assigning(SplitEnumeratorContext<Slot> context) {
            this.context = context;
        }

        @Override
        public void start() {}

        @Override
        public void handleSplitRequest(int reader, String host) {}

        @Override
        public void addSplitsBack(List<Slot> splits, int reader) {}

        @Override
        public void addReader(int reader) {
            if (reader == 0) {
                context.assignSplit(new Slot(options.slot()), reader);
            }
        }

        @Override
        public Void snapshotState(long checkpoint) {
            return null;
        }

        @Override
        public void close() {}
    }

    @Override
    public SimpleVersionedSerializer<Slot> getSplitSerializer() {
        return new SimpleVersionedSerializer<>() {
            @Override
            public int getVersion() {
                return 1;
            }

            @Override
            public byte[] serialize(Slot slot) {
                return slot.splitId().getBytes(java.nio.charset.StandardCharsets.UTF_8);
            }

            @Override
            public Slot deserialize(int version, byte[] bytes) {
                return new Slot(new String(bytes, java.nio.charset.StandardCharsets.UTF_8));
            }
        };
    }

    @Override
    public SimpleVersionedSerializer<Void> getEnumeratorCheckpointSerializer() {
        return new SimpleVersionedSerializer<>() {
            @Override
            public int getVersion() {
                return 1;
            }

            @Override
            public byte[] serialize(Void nothing) {
                return new byte[0];
            }

            @Override
            public Void deserialize(int version, byte[] bytes) {
                return null;
            }
        };
    }
}
