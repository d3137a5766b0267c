package maxine;

import java.io.IOException;

/** An answer that is an error. The status and the message are those of the server. */
public final class MaxineException extends IOException {
    private static final long serialVersionUID = 1L;

    /** The HTTP status. */
    public final int status;

    MaxineException(int status, String message) {
        super(status + ": " + message);
        this.status = status;
    }
}
