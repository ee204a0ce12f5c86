package lakehouse.capture;

import java.io.Serializable;

/**
 * What the reader of the WAL hands to the lake: the position that it begins after; then changes,
 * tables' new shapes, and commits that complete a transaction. Texts are UTF-8; times are microseconds since 1970.
 */
public final class Event implements Serializable {
    public enum Kind {
        BEGIN,
        CHANGE,
        SHAPE,
        COMMIT
    }

    public Kind kind;
    /** The qualified name of the source's table; {@code message} of a logical message. */
    public String sourceTable;
    /** c, u, d, t or m. */
    public String op;
    public long commitLsn;
    public long ordinal;
    /** The change's own LSN. */
    public long lsn;
    public long xid;
    public long committedAt;
    public long ingestedAt;
    /** JSON objects of column names and the texts of values, or null. */
    public byte[] key;
    public byte[] before;
    public byte[] after;
    /** JSON array of the columns whose unchanged values the WAL leaves out; of a shape, its columns. */
    public byte[] columns;
    /** Of a shape: d, n, f or i, as {@code pg_class.relreplident} has it. */
    public String replicaIdentity;

    /** That the changes after a position follow. */
    static Event begin(Position after) {
        Event event = new Event();
        event.kind = Kind.BEGIN;
        event.commitLsn = after.commitLsn();
        event.ordinal = after.ordinal();
        return event;
    }

    public Position position() {
        return new Position(commitLsn, ordinal);
    }
}
