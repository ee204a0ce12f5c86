package lakehouse.capture;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.format.DateTimeFormatter;
import java.time.format.DateTimeFormatterBuilder;
import java.time.ZoneOffset;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.AppendFiles;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.Table;
import org.apache.iceberg.Transaction;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.data.IcebergGenerics;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.io.CloseableIterable;

/**
 * The tables that capture writes, and how far they have come. A table's position is one of its
 * properties, and changes in the very commit that adds the rows: so what it says is what it holds.
 */
final class Lake implements AutoCloseable {
    static final TableIdentifier CHANGES = TableIdentifier.of("bronze", "changes");
    static final TableIdentifier SHAPES = TableIdentifier.of("bronze", "schema_changes");

    static final String POSITION = "lake.position";
    static final String COMPLETE_LSN = "lake.complete-lsn";
    static final String COMPLETE_AT = "lake.complete-at";
    static final String CHANGED_LSN = "lake.changed-lsn";
    /** Which source the rows are of: system identifier, database and slot. */
    static final String SOURCE = "lake.source";
    /** The LSN of the bulk load that the slot was made for; changes go on from there. */
    private static final String SLOT_LSN = "lake.slot-lsn";

    private static final DateTimeFormatter ISO =
            new DateTimeFormatterBuilder().appendInstant(6).toFormatter().withZone(ZoneOffset.UTC);

    private final Catalog catalog;

    Lake(Options options) {
        catalog =
                CatalogUtil.loadCatalog(
                        options.catalog().get("catalog-impl"),
                        options.catalogName(),
                        options.catalog(),
                        new Configuration(false));
    }

    Table table(TableIdentifier name) {
        return catalog.loadTable(name);
    }

    /** The last position that a table holds. */
    static Position position(Table table) {
        String position = table.properties().get(POSITION);
        return position != null ? Position.parse(position) : Position.before(slotLsn(table));
    }

    /** The LSN up to which {@code bronze.changes} holds every transaction whole. */
    static long completeLsn(Table changes) {
        String complete = changes.properties().get(COMPLETE_LSN);
        return complete != null ? Long.parseLong(complete) : slotLsn(changes);
    }

    private static long slotLsn(Table table) {
        return Long.parseLong(table.properties().getOrDefault(SLOT_LSN, "1"));
    }

    /** The columns that each source table had last, as JSON. */
    Map<String, byte[]> shapes() {
        Map<String, Record> newest = new HashMap<>();
        try (CloseableIterable<Record> rows = IcebergGenerics.read(table(SHAPES)).build()) {
            for (Record row : rows) {
                newest.merge(
                        (String) row.getField("source_table"),
                        row,
                        (one, other) -> at(one).compareTo(at(other)) > 0 ? one : other);
            }
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
        Map<String, byte[]> shapes = new HashMap<>();
        newest.forEach(
                (table, row) ->
                        shapes.put(
                                table,
                                ((String) row.getField("columns"))
                                        .getBytes(StandardCharsets.UTF_8)));
        return shapes;
    }

    private static Position at(Record row) {
        return new Position((long) row.getField("commit_lsn"), (long) row.getField("ordinal"));
    }

    /**
     * Adds files to a table and moves its position, all at once, if it still stands at {@code from}.
     *
     * @throws org.apache.iceberg.exceptions.ValidationException where another has moved it
     */
    static void append(
            Table table, List<DataFile> files, Position from, Map<String, String> properties) {
        Transaction transaction = table.newTransaction();
        AppendFiles append = transaction.newAppend();
        files.forEach(append::appendFile);
        append.set(POSITION, properties.get(POSITION));
        append.validateWith(snapshots -> standsAt(snapshots, from));
        append.commit();
        var update = transaction.updateProperties();
        properties.forEach(update::set);
        update.commit();
        transaction.commitTransaction();
    }

    private static boolean standsAt(Iterable<Snapshot> newestFirst, Position from) {
        for (Snapshot snapshot : newestFirst) {
            String position = snapshot.summary().get(POSITION);
            if (position != null) {
                return Position.parse(position).equals(from);
            }
        }
        return true; // no append yet, or only compacted ones, whose positions have expired
    }

    static String iso(long microseconds) {
        return ISO.format(
                Instant.ofEpochSecond(
                        Math.floorDiv(microseconds, 1_000_000L),
                        Math.floorMod(microseconds, 1_000_000L) * 1_000L));
    }

    @Override
    public void close() throws Exception {
        if (catalog instanceof AutoCloseable closeable) {
            closeable.close();
        }
    }
}
