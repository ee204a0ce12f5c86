package lakehouse.capture;

import java.io.Serializable;

/**
 * What the reader of the WAL hands to the lake: a change, a table's new shape, or the commit that
 * completes a transaction. Texts are UTF-8; times are microseconds since 1970.
 */
public final class Event implements Serializable {
    public enum Kind {
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

    public Position position() {
        return new Position(commitLsn, ordinal);
    }
}
