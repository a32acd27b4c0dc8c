import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Cidr = [Address, number];

/** ::ffff:0:0/96 (RFC 4291, section 2.5.5.2). */
const MAPPED_PREFIX_BITS = 96;

/** CIDRs that webhooks may reach beside the public addresses, and those that they may not whatever else is said of them. */
export interface EgressLists {
  readonly egressAllow: readonly string[];
  readonly egressDeny?: readonly string[];
}

/** Whether webhooks may reach an address. Decides on addresses alone: names are resolved first. */
export interface EgressPolicy {
  permits(address: string): boolean;
  /** What forbids an address, to be read after "which"; undefined when it is permitted. */
  refusal(address: string): string | undefined;
}

/** The address was refused before anything was sent. */
export class EgressRefusedError extends Error {
  override readonly name = 'EgressRefusedError';
  readonly address: string;

  constructor(host: string, address: string, why: string) {
    super(`${host} is at ${address}, which ${why}`);
    this.address = address;
  }
}

// In public ranges, and yet answered by the machine's own cloud: Azure's metadata and wire server.
const NOT_REALLY_PUBLIC: readonly Cidr[] = [ipaddr.parseCIDR('168.63.129.16/32')];
// Everything else of IPv6 is special, unassigned, or carries an IPv4 address (RFC 4291, section 2.4).
const GLOBAL_UNICAST_V6: Cidr = ipaddr.parseCIDR('2000::/3');

/**
 * Public addresses, and those that `allow` names, without those that `deny` names. An address that carries another one
 * (mapped, NAT64, 6to4, Teredo) is judged as the IPv4 address when mapped, and refused otherwise.
 * @param allow CIDRs
 * @param deny CIDRs
 */
export function egressPolicy(allow: readonly string[], deny: readonly string[] = []): EgressPolicy {
  const allowed = allow.map(parseNetwork);
  const denied = deny.map(parseNetwork);
  const refusal = (text: string) => {
    if (!ipaddr.isValid(text)) return 'is not an address';
    const address = ipaddr.process(text);
    if (isWithin(address, denied)) return 'is in OUTBOX_EGRESS_DENY';
    if (isWithin(address, allowed) || (isPublic(address) && !isWithin(address, NOT_REALLY_PUBLIC))) return undefined;
    return 'is not a public address and not in OUTBOX_EGRESS_ALLOW';
  };
  return { refusal, permits: (address) => refusal(address) === undefined };
}

// A mapped address is judged as IPv4, so a network of them has to be one of IPv4, or it would name nothing.
function parseNetwork(cidr: string): Cidr {
  const [network, bits] = ipaddr.parseCIDR(cidr);
  return network.kind() === 'ipv6' && (network as ipaddr.IPv6).isIPv4MappedAddress() && bits >= MAPPED_PREFIX_BITS
    ? [(network as ipaddr.IPv6).toIPv4Address(), bits - MAPPED_PREFIX_BITS]
    : [network, bits];
}

/** The address that a URL's host spells out, in whatever notation; undefined when it is a name. */
export function literalAddress(url: URL): string | undefined {
  // The URL parser has already turned 2130706433, 0x7f.1 and 017700000001 into dotted decimals.
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(host) === 0 ? undefined : host;
}

function isPublic(address: Address): boolean {
  if (address.range() !== 'unicast') return false;
  return address.kind() === 'ipv4' || isWithin(address, [GLOBAL_UNICAST_V6]);
}

function isWithin(address: Address, cidrs: readonly Cidr[]): boolean {
  return cidrs.some(([network, bits]) => network.kind() === address.kind() && address.match(network as never, bits));
}
