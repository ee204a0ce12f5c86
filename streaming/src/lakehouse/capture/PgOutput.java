package lakehouse.capture;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Decodes pgoutput, version 1 (Postgres: "Logical Replication Message Formats"), into events. Every
 * value stays the text that Postgres prints. Changes up to {@code start} are counted and left out.
 */
final class PgOutput {
    private static final long SECONDS_1970_TO_2000 = 946_684_800L;

    private final Position start;
    private final Relation.TypeNames types;
    private final Map<String, byte[]> shapes;
    private final Consumer<Event> out;
    private final Map<Integer, Relation> relations = new HashMap<>();
    private final Json json = new Json();

    private long commitLsn;
    private long committedAt;
    private long xid;
    private long ordinal;
    private long ingestedAt;

    /**
     * @param start the last position that the lake holds
     * @param shapes by source table, the columns that the lake knows last; kept up to date here
     */
    PgOutput(
            Position start,
            Relation.TypeNames types,
            Map<String, byte[]> shapes,
            Consumer<Event> out) {
        this.start = start;
        this.types = types;
        this.shapes = shapes;
        this.out = out;
    }

    /** Decodes one message that stands in the WAL at {@code lsn}. */
    void decode(ByteBuffer message, long lsn) {
        char kind = (char) message.get();
        switch (kind) {
            case 'B' -> begin(message);
            case 'C' -> commit();
            case 'R' -> relation(message);
            case 'I' -> insert(message, lsn);
            case 'U' -> update(message, lsn);
            case 'D' -> delete(message, lsn);
            case 'T' -> truncate(message, lsn);
            case 'M' -> logicalMessage(message);
            case 'O', 'Y' -> {} // where a transaction came from; the name of a type
            default -> throw new IllegalStateException("pgoutput sent an unknown message: " + kind);
        }
    }

    private void begin(ByteBuffer message) {
        commitLsn = message.getLong();
        committedAt = since1970(message.getLong());
        xid = Integer.toUnsignedLong(message.getInt());
        ordinal = 0;
        ingestedAt = now();
    }

    private void commit() {
        if (ordinal > 0 && commitLsn >= start.commitLsn()) {
            out.accept(event(Event.Kind.COMMIT, 0));
        }
    }

    private void relation(ByteBuffer message) {
        int id = message.getInt();
        String schema = string(message);
        String table = string(message);
        char identity = (char) message.get();
        Relation.Column[] columns = new Relation.Column[message.getShort()];
        for (int i = 0; i < columns.length; i++) {
            boolean isKey = (message.get() & 1) != 0;
            String name = string(message);
            long oid = Integer.toUnsignedLong(message.getInt());
            columns[i] = new Relation.Column(name, isKey, oid, message.getInt());
        }
        relations.put(
                id, new Relation(schema.isEmpty() ? "pg_catalog" : schema, table, identity, columns));
    }

    private void insert(ByteBuffer message, long lsn) {
        Relation relation = relations.get(message.getInt());
        if (!isNew()) {
            return;
        }
        message.get(); // N
        Event event = change(relation, "c", lsn);
        Tuple tuple = tuple(message, relation);
        event.after = image(relation, tuple, null, false);
        event.key = key(relation, tuple, null);
        out.accept(event);
    }

    private void update(ByteBuffer message, long lsn) {
        Relation relation = relations.get(message.getInt());
        if (!isNew()) {
            return;
        }
        Event event = change(relation, "u", lsn);
        Tuple old = null;
        char kind = (char) message.get();
        if (kind != 'N') {
            old = tuple(message, relation);
            event.before = image(relation, old, null, kind == 'K');
            message.get(); // N
        }
        Tuple tuple = tuple(message, relation);
        Tuple whole = kind == 'O' ? old : null;
        event.after = image(relation, tuple, whole, false);
        event.key = key(relation, tuple, old);
        event.columns = whole == null ? unchanged(relation, tuple) : null;
        out.accept(event);
    }

    private void delete(ByteBuffer message, long lsn) {
        Relation relation = relations.get(message.getInt());
        if (!isNew()) {
            return;
        }
        Event event = change(relation, "d", lsn);
        char kind = (char) message.get();
        Tuple old = tuple(message, relation);
        event.before = image(relation, old, null, kind == 'K');
        event.key = key(relation, old, null);
        out.accept(event);
    }

    private void truncate(ByteBuffer message, long lsn) {
        int[] ids = new int[message.getInt()];
        message.get(); // options: cascade, restart identity
        for (int i = 0; i < ids.length; i++) {
            ids[i] = message.getInt();
        }
        for (int id : ids) {
            Relation relation = relations.get(id);
            if (isNew()) {
                out.accept(change(relation, "t", lsn));
            }
        }
    }

    /** One outside a transaction comes between two, and stands for a transaction of its own. */
    private void logicalMessage(ByteBuffer message) {
        boolean isTransactional = (message.get() & 1) != 0;
        long lsn = message.getLong();
        String prefix = string(message);
        byte[] content = new byte[message.getInt()];
        message.get(content);
        if (!isTransactional) {
            ingestedAt = now();
            committedAt = ingestedAt;
            commitLsn = lsn;
            xid = 0;
            ordinal = 0;
        }
        if (isNew()) {
            Event event = event(Event.Kind.CHANGE, lsn);
            event.sourceTable = "message";
            event.op = "m";
            json.clear().raw('{').text("prefix").raw(':').text(prefix);
            event.key = json.raw('}').toBytes();
            json.clear().raw('{').text("content").raw(':');
            event.after = json.text("\\x" + HexFormat.of().formatHex(content)).raw('}').toBytes();
            out.accept(event);
            if (!isTransactional) {
                out.accept(event(Event.Kind.COMMIT, 0));
            }
        }
    }

    /** Counts a change; whether the lake lacks it. */
    private boolean isNew() {
        ordinal++;
        int byCommit = Long.compare(commitLsn, start.commitLsn());
        return byCommit > 0 || byCommit == 0 && ordinal > start.ordinal();
    }

    private Event change(Relation relation, String op, long lsn) {
        tellShape(relation);
        Event event = event(Event.Kind.CHANGE, lsn);
        event.sourceTable = relation.sourceTable;
        event.op = op;
        return event;
    }

    /** Tells of a table's shape, before the first change that has it. */
    private void tellShape(Relation relation) {
        if (relation.isTold) {
            return;
        }
        relation.isTold = true;
        byte[] shape = relation.shape(types);
        if (Arrays.equals(shape, shapes.put(relation.sourceTable, shape))) {
            return;
        }
        Event event = event(Event.Kind.SHAPE, 0);
        event.sourceTable = relation.sourceTable;
        event.columns = shape;
        event.replicaIdentity = String.valueOf(relation.replicaIdentity);
        out.accept(event);
    }

    private Event event(Event.Kind kind, long lsn) {
        Event event = new Event();
        event.kind = kind;
        event.commitLsn = commitLsn;
        event.ordinal = ordinal;
        event.lsn = lsn;
        event.xid = xid;
        event.committedAt = committedAt;
        event.ingestedAt = ingestedAt;
        return event;
    }

    // -- rows ----------------------------------------------------------------------------------

    /** Where each column's text stands in a message. A length is NULL or UNCHANGED instead of one. */
    private record Tuple(byte[] bytes, int[] offsets, int[] lengths) {
        static final int NULL = -1;
        static final int UNCHANGED = -2;

        boolean is(int column, int what) {
            return lengths[column] == what;
        }
    }

    private static Tuple tuple(ByteBuffer message, Relation relation) {
        int count = message.getShort();
        if (count != relation.columns.length) {
            throw new IllegalStateException(
                    relation.sourceTable + ": pgoutput sent a row of another shape");
        }
        int[] offsets = new int[count];
        int[] lengths = new int[count];
        for (int i = 0; i < count; i++) {
            char kind = (char) message.get();
            switch (kind) {
                case 'n' -> lengths[i] = Tuple.NULL;
                case 'u' -> lengths[i] = Tuple.UNCHANGED;
                case 't' -> {
                    lengths[i] = message.getInt();
                    offsets[i] = message.arrayOffset() + message.position();
                    message.position(message.position() + lengths[i]);
                }
                default -> throw new IllegalStateException("pgoutput sent a value as: " + kind);
            }
        }
        return new Tuple(message.array(), offsets, lengths);
    }

    /** A row as JSON; what it leaves out as unchanged is taken of {@code whole}, where there is one. */
    private byte[] image(Relation relation, Tuple tuple, Tuple whole, boolean keyOnly) {
        json.clear().raw('{');
        boolean isFirst = true;
        for (int i = 0; i < relation.columns.length; i++) {
            if (keyOnly && !relation.columns[i].isKey()) {
                continue;
            }
            Tuple from = whole != null && tuple.is(i, Tuple.UNCHANGED) ? whole : tuple;
            if (from.is(i, Tuple.UNCHANGED)) {
                continue;
            }
            if (!isFirst) {
                json.raw(',');
            }
            isFirst = false;
            json.raw(relation.members[i]);
            if (from.is(i, Tuple.NULL)) {
                json.nothing();
            } else {
                json.text(from.bytes, from.offsets[i], from.lengths[i]);
            }
        }
        return json.raw('}').toBytes();
    }

    /** The key's columns as JSON; null where no key names a row. */
    private byte[] key(Relation relation, Tuple tuple, Tuple old) {
        return relation.hasKey() ? image(relation, tuple, old, true) : null;
    }

    private byte[] unchanged(Relation relation, Tuple tuple) {
        json.clear();
        for (int i = 0; i < relation.columns.length; i++) {
            if (tuple.is(i, Tuple.UNCHANGED)) {
                json.raw(json.isEmpty() ? '[' : ',').text(relation.columns[i].name());
            }
        }
        return json.isEmpty() ? null : json.raw(']').toBytes();
    }

    private static String string(ByteBuffer message) {
        int from = message.position();
        while (message.get() != 0) {}
        int length = message.position() - from - 1;
        return new String(
                message.array(), message.arrayOffset() + from, length, StandardCharsets.UTF_8);
    }

    private static long since1970(long microsecondsSince2000) {
        return microsecondsSince2000 + SECONDS_1970_TO_2000 * 1_000_000L;
    }

    private static long now() {
        Instant now = Instant.now();
        return now.getEpochSecond() * 1_000_000L + now.getNano() / 1_000;
    }
}
