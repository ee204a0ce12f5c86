package lakehouse.capture;

import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.FileFormat;
import org.apache.iceberg.Table;
import org.apache.iceberg.TableProperties;
import org.apache.iceberg.flink.FlinkSchemaUtil;
import org.apache.iceberg.flink.sink.RowDataTaskWriterFactory;
import org.apache.iceberg.io.TaskWriter;

/**
 * Writes events to files as they come, and commits them in order, by a thread of its own: a commit
 * adds rows and moves the position, or does neither. Shapes are committed before the changes that
 * have them; what a table holds already is not written again.
 */
final class LakeWriter implements SinkWriter<Event> {
    private static final long FILE_BYTES = 256L << 20;
    /**
     * What keeps memory small. Each table whose rows came since the last commit has a file open, whose
     * buffer is as large as a page, and whose rows are in memory until there are enough for a row group.
     * Rows may be of megabytes: their size is looked at from the first on, and not after a hundred.
     */
    private static final Map<String, String> SMALL =
            Map.of(
                    TableProperties.PARQUET_PAGE_SIZE_BYTES,
                    String.valueOf(64 << 10),
                    TableProperties.PARQUET_ROW_GROUP_SIZE_BYTES,
                    String.valueOf(16 << 20),
                    TableProperties.PARQUET_ROW_GROUP_CHECK_MIN_RECORD_COUNT,
                    "1");

    private final Lake lake;
    private final Rows changes;
    private final Rows shapes;
    private final Map<String, StringData> names = new HashMap<>();
    private final ExecutorService committer =
            Executors.newSingleThreadExecutor(
                    run -> {
                        Thread thread = new Thread(run, "commit");
                        thread.setDaemon(true);
                        return thread;
                    });

    private Future<?> committing = CompletableFuture.completedFuture(null);
    private Event complete;
    private long changedLsn;

    LakeWriter(Options options) {
        lake = new Lake(options);
        changes = new Rows(lake.table(Lake.CHANGES));
        shapes = new Rows(lake.table(Lake.SHAPES));
    }

    /** What of a table's rows is not committed yet, and up to where it is. */
    private static final class Rows {
        final Table table;
        final RowDataTaskWriterFactory writers;
        TaskWriter<RowData> writer;
        Position held;
        Position last;

        Rows(Table table) {
            this.table = table;
            Map<String, String> properties = new HashMap<>(table.properties());
            properties.putAll(SMALL);
            this.writers =
                    new RowDataTaskWriterFactory(
                            table,
                            FlinkSchemaUtil.convert(table.schema()),
                            FILE_BYTES,
                            FileFormat.PARQUET,
                            properties,
                            null,
                            false);
            writers.initialize(0, 1);
            this.held = Lake.position(table);
            this.last = held;
        }

        void write(Position position, RowData row) throws IOException {
            if (writer == null) {
                writer = writers.create();
            }
            writer.write(row);
            last = position;
        }

        /** The files of what was written since the last time; none where that is nothing. */
        List<DataFile> files() throws IOException {
            if (writer == null) {
                return List.of();
            }
            List<DataFile> files = List.of(writer.complete().dataFiles());
            writer = null;
            return files;
        }
    }

    @Override
    public void write(Event event, Context context) throws IOException {
        switch (event.kind) {
            case BEGIN -> begin(event.position());
            case CHANGE -> {
                changes.write(event.position(), change(event));
                changedLsn = event.op.equals("m") ? changedLsn : event.commitLsn;
            }
            case SHAPE -> {
                if (event.position().compareTo(shapes.last) > 0) {
                    shapes.write(event.position(), shape(event));
                }
            }
            case COMMIT -> complete = event;
        }
    }

    /**
     * The reader and this have looked at the lake each for itself. If another capture, which was taken
     * for dead, has committed between, changes would be written twice, or not at all.
     */
    private void begin(Position position) throws IOException {
        if (!position.equals(changes.held)) {
            throw new IOException(
                    "the lake moved from " + changes.held + " to " + position + ": trying again");
        }
    }

    @Override
    public void flush(boolean endOfInput) throws IOException, InterruptedException {
        waitForCommit();
        if (complete == null && changes.writer == null) {
            return;
        }
        List<Runnable> commits = new ArrayList<>();
        if (shapes.writer != null) {
            commits.add(commit(shapes, new HashMap<>()));
        }
        Map<String, String> properties = new HashMap<>();
        if (complete != null) {
            properties.put(Lake.COMPLETE_LSN, String.valueOf(complete.commitLsn));
            properties.put(Lake.COMPLETE_AT, Lake.iso(complete.committedAt));
            complete = null;
        }
        if (changedLsn > 0) {
            properties.put(Lake.CHANGED_LSN, String.valueOf(changedLsn));
            changedLsn = 0;
        }
        commits.add(commit(changes, properties));
        committing = committer.submit(() -> commits.forEach(Runnable::run));
        if (endOfInput) {
            waitForCommit();
        }
    }

    private static Runnable commit(Rows rows, Map<String, String> properties) throws IOException {
        List<DataFile> files = rows.files();
        Position from = rows.held;
        properties.put(Lake.POSITION, rows.last.toString());
        rows.held = rows.last;
        return () -> Lake.append(rows.table, files, from, properties);
    }

    private void waitForCommit() throws IOException, InterruptedException {
        try {
            committing.get();
        } catch (ExecutionException error) {
            throw new IOException(error.getCause());
        }
    }

    private RowData change(Event event) {
        return GenericRowData.of(
                names.computeIfAbsent(event.sourceTable, StringData::fromString),
                names.computeIfAbsent(event.op, StringData::fromString),
                event.commitLsn,
                event.ordinal,
                event.lsn,
                event.xid,
                time(event.committedAt),
                time(event.ingestedAt),
                text(event.key),
                text(event.before),
                text(event.after),
                text(event.columns));
    }

    private RowData shape(Event event) {
        return GenericRowData.of(
                StringData.fromString(event.sourceTable),
                event.commitLsn,
                event.ordinal,
                time(event.committedAt),
                time(event.ingestedAt),
                text(event.columns),
                StringData.fromString(event.replicaIdentity));
    }

    private static StringData text(byte[] utf8) {
        return utf8 == null ? null : BinaryStringData.fromBytes(utf8);
    }

    private static TimestampData time(long microseconds) {
        long milliseconds = Math.floorDiv(microseconds, 1_000L);
        return TimestampData.fromEpochMillis(
                milliseconds, (int) (microseconds - milliseconds * 1_000L) * 1_000);
    }

    @Override
    public void close() throws Exception {
        committer.shutdown();
        committer.awaitTermination(30, TimeUnit.SECONDS);
        for (Rows rows : List.of(changes, shapes)) {
            if (rows.writer != null) {
                rows.writer.close(); // its files are orphans, which maintenance removes
            }
        }
        lake.close();
    }
}
