package lakehouse.capture;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Writes JSON as UTF-8, from values that are UTF-8 already, without decoding them. */
final class Json {
    private static final byte[] HEX = "0123456789abcdef".getBytes(StandardCharsets.US_ASCII);
    private static final byte[] NULL = "null".getBytes(StandardCharsets.US_ASCII);

    /** The size up to which the buffer is kept, so that one large row does not hold on to memory. */
    private static final int KEPT_BYTES = 1 << 20;

    private byte[] buffer = new byte[1024];
    private int length;

    Json clear() {
        length = 0;
        return this;
    }

    boolean isEmpty() {
        return length == 0;
    }

    byte[] toBytes() {
        byte[] bytes = Arrays.copyOf(buffer, length);
        if (buffer.length > KEPT_BYTES) {
            buffer = new byte[1024];
        }
        return bytes;
    }

    Json raw(char character) {
        reserve(1);
        buffer[length++] = (byte) character;
        return this;
    }

    Json raw(byte[] bytes) {
        reserve(bytes.length);
        System.arraycopy(bytes, 0, buffer, length, bytes.length);
        length += bytes.length;
        return this;
    }

    Json nothing() {
        return raw(NULL);
    }

    Json number(long number) {
        return raw(Long.toString(number).getBytes(StandardCharsets.US_ASCII));
    }

    Json text(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        return text(bytes, 0, bytes.length);
    }

    /** A JSON string; a byte may take six, as {@code \}{@code u0001}. */
    Json text(byte[] source, int from, int count) {
        reserve(count + 2);
        buffer[length++] = '"';
        int end = from + count;
        int copied = from;
        for (int at = from; at < end; at++) {
            byte b = source[at];
            if (b >= 0x20 && b != '"' && b != '\\' || b < 0) {
                continue;
            }
            copy(source, copied, at);
            copied = at + 1;
            escape(b);
        }
        copy(source, copied, end);
        return raw('"');
    }

    private void copy(byte[] source, int from, int to) {
        reserve(to - from);
        System.arraycopy(source, from, buffer, length, to - from);
        length += to - from;
    }

    private void escape(byte b) {
        reserve(6);
        buffer[length++] = '\\';
        if (b == '"' || b == '\\') {
            buffer[length++] = b;
            return;
        }
        buffer[length++] = 'u';
        buffer[length++] = '0';
        buffer[length++] = '0';
        buffer[length++] = HEX[b >> 4];
        buffer[length++] = HEX[b & 15];
    }

    private void reserve(int count) {
        if (length + count > buffer.length) {
            int grown = buffer.length + buffer.length / 2;
            buffer = Arrays.copyOf(buffer, Math.max(length + count, grown));
        }
    }
}
