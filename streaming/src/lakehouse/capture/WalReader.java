package lakehouse.capture;

import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.runtime.execution.SuppressRestartsException;
import org.apache.iceberg.Table;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Reads the slot from where the lake is, and acknowledges what the lake holds.
 *
 * <p>At its start two positions are compared. The slot sends again what was not acknowledged: what
 * the lake holds of that is skipped by position. A slot that was acknowledged further than the lake
 * holds, or is another's, would lose changes: then the job ends and says so.
 */
final class WalReader implements SourceReader<Event, WalSource.Slot> {
    private static final Logger LOG = LoggerFactory.getLogger(WalReader.class);
    private static final int BATCH = 512;

    private final Options options;
    private final List<Wal.Message> batch = new ArrayList<>(BATCH);
    private final CompletableFuture<Void> assigned = new CompletableFuture<>();
    private final ScheduledExecutorService clock =
            Executors.newSingleThreadScheduledExecutor(
                    run -> {
                        Thread thread = new Thread(run, "acknowledge");
                        thread.setDaemon(true);
                        return thread;
                    });

    private Lake lake;
    private Table changes;
    private Position held;
    private boolean hasBegun;
    private Wal wal;
    private PgOutput decoder;
    private ReaderOutput<Event> out;

    WalReader(Options options) {
        this.options = options;
    }

    @Override
    public void start() {}

    @Override
    public void addSplits(List<WalSource.Slot> slots) {
        try {
            open();
        } catch (Exception error) {
            throw error instanceof RuntimeException known ? known : new IllegalStateException(error);
        }
        assigned.complete(null);
    }

    private void open() throws Exception {
        lake = new Lake(options);
        changes = lake.table(Lake.CHANGES);
        wal = new Wal(options);
        held = Lake.position(changes);
        Wal.Slot slot = wal.slot();
        check(slot);
        decoder = new PgOutput(held, wal, lake.shapes(), event -> out.collect(event));
        wal.start();
        clock.scheduleWithFixedDelay(this::acknowledge, 1, 1, TimeUnit.SECONDS);
        clock.scheduleWithFixedDelay(this::endWithSource, 1, 1, TimeUnit.SECONDS);
        int seconds = options.heartbeatSeconds();
        clock.scheduleWithFixedDelay(this::beat, 0, seconds, TimeUnit.SECONDS);
        LOG.info(
                "reading from {}, which the lake holds; the slot is at {}",
                held,
                slot.confirmedLsn());
    }

    private void check(Wal.Slot slot) {
        if (slot == null) {
            throw refused("the source has no replication slot `" + options.slot() + "`");
        }
        String known = changes.properties().get(Lake.SOURCE);
        if (known != null && !known.equals(slot.source())) {
            throw refused(
                    "bronze holds changes of " + known + ", but the slot is of " + slot.source());
        }
        long complete = Lake.completeLsn(changes);
        if (slot.confirmedLsn() > complete) {
            throw refused(
                    ("the slot `%s` was acknowledged up to %d, but bronze is complete only up to"
                                    + " %d: the changes between are lost; take the tables anew by"
                                    + " `lake ingest --from-scratch`")
                            .formatted(options.slot(), slot.confirmedLsn(), complete));
        }
    }

    /** What trying again can't mend ends the job. */
    private static RuntimeException refused(String why) {
        return new SuppressRestartsException(new IllegalStateException(why));
    }

    private void acknowledge() {
        try {
            changes.refresh();
            wal.acknowledge(Lake.completeLsn(changes));
        } catch (RuntimeException error) {
            LOG.warn("nothing is acknowledged for now: {}", error.toString());
        }
    }

    /**
     * Ends the stream when the source shuts down. The source would wait until all of its WAL is
     * acknowledged, and the lake never holds the last of it.
     */
    private void endWithSource() {
        try {
            if (wal.isSourceShuttingDown()) {
                LOG.warn("the source is shutting down: its stream is ended");
                wal.end();
            }
        } catch (SQLException | RuntimeException error) {
            LOG.warn("the stream could not be ended: {}", error.toString());
        }
    }

    private void beat() {
        try {
            wal.beat();
        } catch (SQLException | RuntimeException error) {
            LOG.warn("no heartbeat: {}", error.toString());
        }
    }

    @Override
    public InputStatus pollNext(ReaderOutput<Event> output) throws Exception {
        if (wal == null) {
            return InputStatus.NOTHING_AVAILABLE;
        }
        out = output;
        if (!hasBegun) {
            output.collect(Event.begin(held));
            hasBegun = true;
        }
        batch.clear();
        wal.poll(batch, BATCH);
        for (int i = 0; i < batch.size(); i++) {
            Wal.Message message = batch.set(i, null); // which may be large
            decoder.decode(message.payload(), message.lsn());
            wal.release(message);
        }
        return batch.isEmpty() ? InputStatus.NOTHING_AVAILABLE : InputStatus.MORE_AVAILABLE;
    }

    @Override
    public CompletableFuture<Void> isAvailable() {
        return wal == null ? assigned : wal.available();
    }

    @Override
    public List<WalSource.Slot> snapshotState(long checkpoint) {
        return List.of();
    }

    @Override
    public void notifyNoMoreSplits() {}

    @Override
    public void close() throws Exception {
        clock.shutdownNow();
        if (wal != null) {
            wal.close();
        }
        if (lake != null) {
            lake.close();
        }
    }
}
