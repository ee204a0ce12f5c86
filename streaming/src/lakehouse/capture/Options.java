package lakehouse.capture;

import java.io.Serializable;
import java.util.HashMap;
import java.util.Map;

/**
 * What capture runs with.
 *
 * @param sourceUrl JDBC's, of the captured database
 * @param sourceOptions options of a connection's start that pin what a value's text depends on
 * @param catalog Iceberg's properties of the catalog
 */
public record Options(
        String sourceUrl,
        String sourceUser,
        String sourcePassword,
        String sourceOptions,
        String slot,
        String publication,
        int heartbeatSeconds,
        String catalogName,
        Map<String, String> catalog)
        implements Serializable {

    /** Names the parts of {@code catalog} by a prefix, and all others by their own names. */
    public static Options of(Map<String, String> named) {
        Map<String, String> catalog = new HashMap<>();
        named.forEach(
                (name, value) -> {
                    if (name.startsWith("catalog.")) {
                        catalog.put(name.substring("catalog.".length()), value);
                    }
                });
        return new Options(
                named.get("sourceUrl"),
                named.get("sourceUser"),
                named.get("sourcePassword"),
                named.get("sourceOptions"),
                named.get("slot"),
                named.get("publication"),
                Integer.parseInt(named.get("heartbeatSeconds")),
                named.get("catalogName"),
                catalog);
    }
}
