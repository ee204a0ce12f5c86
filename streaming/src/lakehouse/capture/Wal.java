package lakehouse.capture;

import java.nio.ByteBuffer;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.replication.LogSequenceNumber;
import org.postgresql.replication.PGReplicationStream;

/**
 * The slot's stream of pgoutput's messages, read by a thread of its own into a bounded queue, and the
 * answers to it: what is acknowledged is what {@link #acknowledge} was last told.
 */
final class Wal implements AutoCloseable, Relation.TypeNames {
    /** A message, and where in the WAL it stands. */
    record Message(ByteBuffer payload, long lsn) {}

    private static final int QUEUED = 8192;
    private static final int QUEUED_BYTES = 8 << 20;
    private static final int STATUS_SECONDS = 1;
    /** An SQLSTATE: of a source that starts up, or shuts down. */
    private static final String CANNOT_CONNECT_NOW = "57P03";

    private final Options options;
    private final BlockingQueue<Message> queue = new ArrayBlockingQueue<>(QUEUED);
    private final Semaphore room = new Semaphore(QUEUED_BYTES);
    private final Map<String, String> typeNames = new HashMap<>();
    private final Thread thread = new Thread(this::read, "wal");

    // The driver closes a connection under its stream once nobody refers to it.
    private Connection replication;
    private PGReplicationStream stream;
    private Connection queries;

    private volatile SQLException failure;
    private volatile boolean isClosed;
    private volatile CompletableFuture<Void> available = new CompletableFuture<>();

    Wal(Options options) {
        this.options = options;
    }

    // -- the source ----------------------------------------------------------------------------

    /** What the source's slot is, and how far it was acknowledged. */
    record Slot(String source, long confirmedLsn) {}

    /** The slot now; null where there is none. */
    Slot slot() throws SQLException {
        String query =
                "select s.confirmed_flush_lsn - '0/0', system_identifier, s.database"
                        + " from pg_replication_slots as s, pg_control_system()"
                        + " where s.slot_name = ? and s.database = current_database()";
        try (var statement = queries().prepareStatement(query)) {
            statement.setString(1, options.slot());
            try (ResultSet row = statement.executeQuery()) {
                if (!row.next()) {
                    return null;
                }
                String source = row.getString(2) + "/" + row.getString(3) + "/" + options.slot();
                return new Slot(source, row.getBigDecimal(1).longValueExact());
            }
        }
    }

    /** Writes a message to the WAL, so that positions move on while the source is idle. */
    void beat() throws SQLException {
        try (var statement = queries().createStatement()) {
            statement.execute("select pg_logical_emit_message(true, 'lake.heartbeat', '')");
        }
    }

    /** The name of a type, as Postgres writes it now; its number where the type is gone. */
    @Override
    public synchronized String name(long oid, int modifier) {
        return typeNames.computeIfAbsent(
                oid + "/" + modifier,
                asked -> {
                    try (var statement =
                            queries().prepareStatement("select format_type(?::oid, ?)")) {
                        statement.setLong(1, oid);
                        statement.setInt(2, modifier);
                        ResultSet row = statement.executeQuery();
                        row.next();
                        String name = row.getString(1);
                        return name.equals("???") ? String.valueOf(oid) : name;
                    } catch (SQLException error) {
                        throw new IllegalStateException(error);
                    }
                });
    }

    private synchronized Connection queries() throws SQLException {
        if (queries == null || !queries.isValid(5)) {
            queries = connect(new Properties());
        }
        return queries;
    }

    private Connection connect(Properties properties) throws SQLException {
        properties.setProperty("user", options.sourceUser());
        properties.setProperty("password", options.sourcePassword());
        properties.setProperty("options", options.sourceOptions());
        properties.setProperty("ApplicationName", "lake capture");
        properties.setProperty("connectTimeout", "5");
        properties.setProperty("tcpKeepAlive", "true");
        return DriverManager.getConnection(options.sourceUrl(), properties);
    }

    // -- the stream ----------------------------------------------------------------------------

    /** Begins to read, from where the slot was acknowledged. */
    void start() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("replication", "database");
        properties.setProperty("preferQueryMode", "simple");
        properties.setProperty("assumeMinServerVersion", "14");
        replication = connect(properties);
        stream =
                replication
                        .unwrap(PGConnection.class)
                        .getReplicationAPI()
                        .replicationStream()
                        .logical()
                        .withSlotName(options.slot())
                        .withSlotOption("proto_version", 1)
                        .withSlotOption("messages", true)
                        .withSlotOption(
                                "publication_names",
                                '"' + options.publication().replace("\"", "\"\"") + '"')
                        .withStatusInterval(STATUS_SECONDS, TimeUnit.SECONDS)
                        .withAutomaticFlush(false) // else keep-alives acknowledge what is not held
                        .start();
        thread.setDaemon(true);
        thread.start();
    }

    /** Lets the slot forget what was committed before {@code lsn}. */
    void acknowledge(long lsn) {
        stream.setFlushedLSN(LogSequenceNumber.valueOf(lsn));
        stream.setAppliedLSN(LogSequenceNumber.valueOf(lsn));
    }

    /** Whether the source, whose stream there is, is shutting down. */
    boolean isSourceShuttingDown() {
        try {
            queries();
            return false;
        } catch (SQLException error) {
            return CANNOT_CONNECT_NOW.equals(error.getSQLState());
        }
    }

    /** Ends the stream: the next poll fails. */
    void end() throws SQLException {
        replication.abort(Runnable::run);
    }

    /** Moves messages that were read into {@code into}, at most {@code limit}; returns how many. */
    int poll(Collection<Message> into, int limit) throws SQLException {
        if (failure != null) {
            throw failure;
        }
        return queue.drainTo(into, limit);
    }

    /** Gives back the room of a message that was decoded. */
    void release(Message message) {
        room.release(Math.min(message.payload().limit(), QUEUED_BYTES));
    }

    /** Is complete once there is something to poll, or a failure. */
    CompletableFuture<Void> available() {
        CompletableFuture<Void> waiting = available;
        if (waiting.isDone()) {
            waiting = new CompletableFuture<>();
            available = waiting;
        }
        if (!queue.isEmpty() || failure != null) {
            waiting.complete(null);
        }
        return waiting;
    }

    private void read() {
        try {
            while (!isClosed) {
                ByteBuffer payload = stream.read();
                if (payload == null) {
                    throw new SQLException("the source has ended the stream of changes");
                }
                enqueue(new Message(payload, stream.getLastReceiveLSN().asLong()));
            }
        } catch (SQLException error) {
            failure = error;
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
        available.complete(null);
    }

    /** Waits for room, answering the source meanwhile, which would end a stream that is silent. */
    private void enqueue(Message message) throws SQLException, InterruptedException {
        int size = Math.min(message.payload().limit(), QUEUED_BYTES);
        while (!room.tryAcquire(size, STATUS_SECONDS, TimeUnit.SECONDS)) {
            stream.forceUpdateStatus();
        }
        while (!queue.offer(message, STATUS_SECONDS, TimeUnit.SECONDS)) {
            stream.forceUpdateStatus();
        }
        if (!available.isDone()) {
            available.complete(null);
        }
    }

    @Override
    public void close() throws Exception {
        isClosed = true;
        thread.interrupt();
        for (Connection connection : new Connection[] {replication, queries}) {
            if (connection != null) {
                connection.abort(Runnable::run);
            }
        }
        thread.join(5_000);
    }
}
