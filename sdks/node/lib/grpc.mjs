// A resolver for @grpc/grpc-js, which is given as an argument: it is needed only where it is used.

const RETRY_PAUSE_MS = 1_000;

/** Makes channels find the instances of the target `maxine:///payments`. */
export function registerMaxine(grpc, client, { zone } = {}) {
  const { registerResolver, statusOrFromValue, statusOrFromError } = grpc.experimental;

  class MaxineResolver {
    #service;
    #listener;
    #ended;
    #reading;

    constructor(target, listener) {
      this.#service = MaxineResolver.getDefaultAuthority(target);
      this.#listener = listener;
    }

    static getDefaultAuthority(target) {
      return target.path.replace(/^\//, "");
    }

    /** The first call begins to watch. Later ones need nothing: the watch reports every change. */
    updateResolution() {
      if (this.#reading) return;
      const ended = (this.#ended = new AbortController());
      this.#reading = this.#read(ended.signal);
    }

    destroy() {
      this.#ended?.abort();
      this.#reading = undefined;
    }

    async #read(signal) {
      while (!signal.aborted) {
        try {
          const resolver = await client.resolver(this.#service, { zone });
          signal.addEventListener("abort", () => resolver.stop(), { once: true });
          if (signal.aborted) return resolver.stop();
          const tell = (instances) => signal.aborted || this.#tell(instances);
          resolver.on("change", tell);
          return tell(resolver.instances);
        } catch (error) {
          if (signal.aborted) return;
          this.#fail(error.message);
          await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE_MS).unref());
        }
      }
    }

    #tell(instances) {
      const endpoints = instances.map(({ address }) => {
        const { hostname, port, protocol } = new URL(address);
        // An IPv6 address has brackets in a URL.
        const host = hostname.replace(/^\[(.*)\]$/, "$1");
        return { addresses: [{ host, port: Number(port) || (protocol === "https:" ? 443 : 80) }] };
      });
      this.#listener(statusOrFromValue(endpoints), {}, statusOrFromValue({ loadBalancingConfig: [{ round_robin: {} }], methodConfig: [] }), "");
      // Without an endpoint, only an error ends the calls that wait.
      if (endpoints.length === 0) this.#fail(`no instance of ${this.#service} gets traffic`);
    }

    #fail(details) {
      this.#listener(statusOrFromError({ code: grpc.status.UNAVAILABLE, details, metadata: new grpc.Metadata() }), {}, null, "");
    }
  }

  registerResolver("maxine", MaxineResolver);
}
