package lakehouse.capture;

import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;

/** The lake as a Flink sink: at each checkpoint, what has come is committed, with its position. */
public final class LakeSink implements Sink<Event> {
    private final Options options;

    public LakeSink(Options options) {
        this.options = options;
    }

    @Override
    public SinkWriter<Event> createWriter(WriterInitContext context) {
        return new LakeWriter(options);
    }

    @Override
    @Deprecated
    public SinkWriter<Event> createWriter(InitContext context) {
        return new LakeWriter(options);
    }
}
