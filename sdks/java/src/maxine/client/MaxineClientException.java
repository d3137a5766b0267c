package maxine.client;

import java.io.IOException;
import java.util.Map;

/** An answer that is an error. */
public final class MaxineClientException extends IOException {
    private static final long serialVersionUID = 1L;

    private final int status;
    private final transient Map<String, Object> problem;

    MaxineClientException(int status, String message, Map<String, Object> problem, Throwable cause) {
        super(status == 0 ? message : status + ": " + message, cause);
        this.status = status;
        this.problem = problem;
    }

    /** The HTTP status; 0 if no node has answered in time, or there is no token. */
    public int status() {
        return status;
    }

    /** The {@code application/problem+json} of the answer; null if it was none. */
    public Map<String, Object> problem() {
        return problem;
    }
}
