package maxine;

import java.io.IOException;

/** An answer that is an error; the status and the message are the server's. */
public final class MaxineException extends IOException {
    private static final long serialVersionUID = 1L;

    /** The HTTP status. */
    public final int status;

    MaxineException(int status, String message) {
        super(status + ": " + message);
        this.status = status;
    }
}
