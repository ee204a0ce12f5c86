package lakehouse.capture;

import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;

/** A table of the source as its WAL describes it, with what is written of it again and again. */
final class Relation {
    private static final Pattern PLAIN = Pattern.compile("[a-z_][a-z0-9_$]*");

    record Column(String name, boolean isKey, long typeOid, int typeModifier) {}

    final String sourceTable;
    final char replicaIdentity;
    final Column[] columns;
    /** Each column's name as the start of a JSON member: {@code "loan_id":}. */
    final byte[][] members;
    /** Whether the lake was told of this shape. */
    boolean isTold;

    Relation(String schema, String table, char replicaIdentity, Column[] columns) {
        this.sourceTable = quoted(schema) + "." + quoted(table);
        this.replicaIdentity = replicaIdentity;
        this.columns = columns;
        this.members = new byte[columns.length][];
        for (int i = 0; i < columns.length; i++) {
            members[i] = new Json().text(columns[i].name()).raw(':').toBytes();
        }
    }

    /** Whether its key columns name a row; where whole rows do, the WAL marks all of them. */
    boolean hasKey() {
        return replicaIdentity != 'f' && replicaIdentity != 'n';
    }

    /** As {@code lake.names.qualified} writes it. */
    private static String quoted(String part) {
        return PLAIN.matcher(part).matches() ? part : '"' + part.replace("\"", "\"\"") + '"';
    }

    /** Its shape as JSON: an array of name, type, type_oid, type_modifier, is_key. */
    byte[] shape(TypeNames types) {
        Json json = new Json().raw('[');
        for (int i = 0; i < columns.length; i++) {
            Column column = columns[i];
            json.raw(ascii(i == 0 ? "{\"name\":" : ",{\"name\":")).text(column.name());
            json.raw(ascii(",\"type\":")).text(types.name(column.typeOid(), column.typeModifier()));
            json.raw(ascii(",\"type_oid\":")).number(column.typeOid());
            json.raw(ascii(",\"type_modifier\":")).number(column.typeModifier());
            json.raw(ascii(",\"is_key\":" + (hasKey() && column.isKey()) + "}"));
        }
        return json.raw(']').toBytes();
    }

    private static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    /** What Postgres calls a type. */
    interface TypeNames {
        String name(long oid, int modifier);
    }
}
