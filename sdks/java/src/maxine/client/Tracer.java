package maxine.client;

import java.util.Map;

/** Begins spans, for example those of {@code maxine.otel}. Its errors end nothing. All its methods must return soon. */
public interface Tracer {
    /** What a span is about. */
    sealed interface Traced permits NodeRequest, InstanceCall {
    }

    /** A request to a node, from its start until its answer begins. */
    record NodeRequest(String node, String method, String path) implements Traced {
    }

    /** The use of an instance from its choice to the end of the request. */
    record InstanceCall(String namespace, String service, String instance, String address) implements Traced {
    }

    /**
     * How it has ended.
     *
     * @param status the status of an HTTP answer; 0 if there was none, or if it is not known
     * @param error why there was no good answer, or null
     * @param failed whether an instance could not be reached: it is avoided for some seconds
     */
    record Outcome(int status, Throwable error, boolean failed) {
        /** The end of a request of which nothing else is known. */
        public static final Outcome DONE = new Outcome(0, null, false);
    }

    /** One span. */
    interface Span {
        /** The header fields that pass the trace on. */
        Map<String, String> headers();

        /** Ends the span. It is not called for a choice that is abandoned. */
        void end(Outcome outcome);
    }

    /** Begins a span; null if nothing is recorded. */
    Span start(Traced about);
}
