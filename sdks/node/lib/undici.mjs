// An interceptor for undici: the host of an origin such as http://payments.maxine is a service. It needs nothing of undici's.

const TRIES_MAX = 3;
const SAFE = ["GET", "HEAD", "OPTIONS"];

/**
 * The interceptor, for `new Agent().compose(maxine(client))`. Other origins go where they name.
 * `suffix` is the end of the host names that are services.
 */
export function maxine(client, { zone, suffix = ".maxine" } = {}) {
  const resolvers = new Map();
  const resolver = (service) => {
    if (!resolvers.has(service)) {
      const reading = client.resolver(service, { zone });
      reading.catch(() => resolvers.delete(service));
      resolvers.set(service, reading);
    }
    return resolvers.get(service);
  };
  return (dispatch) =>
    function dispatchToInstance(options, handler) {
      const { hostname } = new URL(options.origin);
      if (!hostname.endsWith(suffix)) return dispatch(options, handler);
      resolver(hostname.slice(0, -suffix.length)).then(
        (found) => new Call(found, dispatch, options, handler).start(),
        (error) => handler.onResponseError?.(undefined, error),
      );
      return true;
    };
}

/** One request, with its attempts. It is the handler of each of them. */
class Call {
  #resolver;
  #dispatch;
  #options;
  #handler;
  #chosen;
  #tries = 0;
  #answered = false;
  #status;

  constructor(resolver, dispatch, options, handler) {
    this.#resolver = resolver;
    this.#dispatch = dispatch;
    this.#options = options;
    this.#handler = handler;
  }

  start() {
    try {
      this.#attempt();
    } catch (error) {
      this.#chosen?.done({ error });
      this.#handler.onResponseError?.(undefined, error);
    }
  }

  #attempt() {
    this.#tries += 1;
    const { path, query } = this.#options;
    const headers = pairsOf(this.#options.headers);
    const queries = [path.includes("?") ? path.slice(path.indexOf("?") + 1) : query && new URLSearchParams(query).toString()];
    this.#chosen = this.#resolver.choose({ headers, queries });
    if (!this.#chosen) throw new Error(`no instance of ${this.#resolver.service} gets traffic`);
    const address = new URL(this.#chosen.address);
    const traced = withHeaders(this.#options.headers, this.#chosen.headers);
    // undici sends the host of the origin, unless the caller has set one.
    this.#dispatch({ ...this.#options, headers: traced, origin: address.origin, path: address.pathname.replace(/\/+$/, "") + path }, this);
  }

  onRequestStart(controller, context) {
    this.#handler.onRequestStart?.(controller, context);
  }

  onRequestUpgrade(...all) {
    this.#answered = true;
    this.#chosen.done({ status: all[1] });
    this.#handler.onRequestUpgrade?.(...all);
  }

  onResponseStart(...all) {
    // Informational answers come before the answer itself.
    this.#answered = true;
    this.#status = all[1];
    this.#handler.onResponseStart?.(...all);
  }

  onResponseData(...all) {
    this.#handler.onResponseData?.(...all);
  }

  onResponseEnd(...all) {
    this.#chosen.done({ status: this.#status });
    this.#handler.onResponseEnd?.(...all);
  }

  onResponseError(controller, error) {
    const aborted = controller?.aborted;
    if (aborted || this.#answered) this.#chosen.done({ status: this.#status, error });
    else this.#chosen.failed(error);
    if (!aborted && !this.#answered && this.#mayRepeat(error)) this.start();
    else this.#handler.onResponseError?.(controller, error);
  }

  /** A connection that was refused has sent nothing. After another error only what changes nothing is sent again. */
  #mayRepeat(error) {
    const { body, method } = this.#options;
    // undici destroys a stream with its first attempt. Nothing else was read before there was a connection.
    const refused = error.code === "ECONNREFUSED" && typeof body?.pipe !== "function";
    return this.#tries < TRIES_MAX && (refused || (SAFE.includes(method) && (body === undefined || body === null)));
  }
}

/** The header fields with these others, in the form that undici takes as one list. */
function withHeaders(headers, added) {
  const names = Object.keys(added);
  if (names.length === 0) return headers;
  const kept = [...pairsOf(headers)].filter(([name]) => !names.includes(name.toLowerCase()));
  const all = kept.flatMap(([name, value]) => [value].flat().flatMap((one) => [name, one]));
  return all.concat(Object.entries(added).flat());
}

/** The header fields, which undici takes in several forms, as pairs. */
function pairsOf(headers) {
  if (!headers) return [];
  if (Array.isArray(headers) && !Array.isArray(headers[0])) {
    return Array.from({ length: headers.length / 2 }, (_, n) => [String(headers[2 * n]), String(headers[2 * n + 1])]);
  }
  return typeof headers[Symbol.iterator] === "function" ? headers : Object.entries(headers);
}
