/** Requests that wait long for their answer: they hold nobody's permit, within bounds of their own. */
export interface SlowRequests {
  /**
   * A request begins. `release` is called once: when it is counted here, or over.
   * @returns what to call when it is over; more than once does no harm
   */
  watch(request: WatchedRequest, release: () => void): () => void;
}

interface WatchedRequest {
  readonly endpointId: string;
  /** Of its payload. */
  readonly bytes: number;
}

interface SlowBounds {
  /** From when on a request is slow. */
  readonly slowMs: number;
  readonly max: number;
  readonly maxBytes: number;
}

/**
 * Waiting for an answer costs a socket and the payload, and no work: so an endpoint that hangs would take the permits from all others for
 * as long as it may, for nothing.
 *
 *   prompt → slow after `slowMs`, or at once where another request to its endpoint is slow; asked again where there is no room
 *          → over
 *   slow   → over
 */
export function watchSlowRequests({ slowMs, max, maxBytes }: SlowBounds): SlowRequests {
  const byEndpoint = new Map<string, number>();
  let count = 0;
  let bytes = 0;

  const hasRoomFor = (request: WatchedRequest) => count < max && bytes + request.bytes <= maxBytes;

  function add(request: WatchedRequest, sign: 1 | -1): void {
    count += sign;
    bytes += sign * request.bytes;
    const ofEndpoint = (byEndpoint.get(request.endpointId) ?? 0) + sign;
    if (ofEndpoint > 0) byEndpoint.set(request.endpointId, ofEndpoint);
    else byEndpoint.delete(request.endpointId);
  }

  return {
    watch: (request, release) => {
      let state: 'prompt' | 'slow' | 'over' = 'prompt';
      let timer: NodeJS.Timeout | undefined;
      const slowDown = () => {
        if (!hasRoomFor(request)) {
          timer = setTimeout(slowDown, slowMs);
          return;
        }
        state = 'slow';
        add(request, 1);
        release();
      };
      if (byEndpoint.has(request.endpointId)) slowDown();
      else timer = setTimeout(slowDown, slowMs);
      return () => {
        clearTimeout(timer);
        if (state === 'prompt') release();
        if (state === 'slow') add(request, -1);
        state = 'over';
      };
    },
  };
}
