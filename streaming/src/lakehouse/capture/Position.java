package lakehouse.capture;

import java.io.Serializable;

/**
 * The name and the order of a change: the LSN of its transaction's commit record, and its place in
 * the transaction, from 1. Transactions arrive in commit order, so a position never goes back.
 */
public record Position(long commitLsn, long ordinal) implements Comparable<Position>, Serializable {

    /** After every change of the transactions that were committed before {@code lsn}. */
    static Position before(long lsn) {
        return new Position(lsn - 1, Long.MAX_VALUE);
    }

    /** Reads what {@link #toString} writes. */
    static Position parse(String text) {
        int colon = text.indexOf(':');
        return new Position(
                Long.parseLong(text.substring(0, colon)), Long.parseLong(text.substring(colon + 1)));
    }

    @Override
    public int compareTo(Position other) {
        int byCommit = Long.compare(commitLsn, other.commitLsn);
        return byCommit != 0 ? byCommit : Long.compare(ordinal, other.ordinal);
    }

    @Override
    public String toString() {
        return commitLsn + ":" + ordinal;
    }
}
