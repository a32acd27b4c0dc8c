import type { Command } from 'commander';
import { toJson } from '../db/json-value.ts';
import { COUNT_LIMIT } from '../outbox/backlog.ts';
import { type EndpointHealth, endpointHealth } from '../outbox/endpoint-health.ts';
import { listSecrets, type SecretInfo } from '../outbox/endpoint-secrets.ts';
import { type Endpoint, getEndpoint, listEndpoints } from '../outbox/endpoints.ts';
import { type CommandContext, withDatabase } from './context.ts';
import { durationText } from './options.ts';
import { STANDARD_SCHEDULE } from './outbox-endpoint-flags.ts';
import { formatCount, paintOut } from './output.ts';
import type { Paint } from './paint.ts';
import { printable } from './printable.ts';
import { tableText } from './table.ts';

export function registerEndpointShow(endpoint: Command, context: CommandContext): void {
  endpoint
    .command('list')
    .description('list the endpoints, without their secrets')
    .addHelpText('after', '\nExample:\n  liventix outbox endpoint list --json')
    .option('--deleted', 'those that were deleted too')
    .option('--json', 'print one JSON array')
    .action((options: { deleted?: boolean; json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const endpoints = await listEndpoints(pool, { deleted: options.deleted === true });
        if (options.json) context.out.write(`${toJson(endpoints)}\n`);
        else if (endpoints.length === 0) context.err.write(NO_ENDPOINTS);
        else context.out.write(endpointTable(endpoints, context));
      }),
    );

  endpoint
    .command('show')
    .description('show what an endpoint is, how it is doing, and which secrets it has, without what is secret of them')
    .argument('<id>', 'the endpoint')
    .option('--json', 'print one JSON object')
    .addHelpText('after', SHOW_HELP)
    .action((id: string, options: { json?: boolean }) =>
      withDatabase(context, async (pool) => {
        const found = await getEndpoint(pool, id);
        const secrets = await listSecrets(pool, found.id);
        const health = await endpointHealth(pool, found.id);
        context.out.write(
          options.json
            ? `${toJson({ ...found, secrets, health })}\n`
            : showText({ endpoint: found, secrets, health }, paintOut(context)),
        );
      }),
    );
}

const SHOW_HELP = `
The breaker is closed while an endpoint is sent to. After failures in a row it is open; from the instant that is named on, the next
delivery that is due tries, and closes it or opens it for twice as long. Of what waits and of dead letters at most ${formatCount(COUNT_LIMIT)} are counted.

Example:
  liventix outbox endpoint show 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4`;

const NO_ENDPOINTS = 'There are no endpoints yet: liventix outbox endpoint add subscribes one.\n';

function endpointTable(endpoints: readonly Endpoint[], context: CommandContext): string {
  const { warn } = paintOut(context);
  const rows = endpoints.map((endpoint) => {
    const state = printable(stateOf(endpoint));
    return [
      endpoint.id,
      printable(endpoint.url),
      endpoint.topics.join(' '),
      endpoint.enabled ? state : { text: state, paint: warn },
    ];
  });
  return tableText(context, rows, [{}, { shortens: 24 }, { shortens: 12 }, { shortens: 12 }]);
}

/** In words: enabled, disabled and why, or deleted. */
function stateOf({ enabled, disabledReason, deletedAt }: Endpoint): string {
  if (deletedAt !== null) return `deleted ${deletedAt.toISOString()}`;
  if (enabled) return 'enabled';
  return disabledReason === null ? 'disabled' : `disabled (${disabledReason})`;
}

function showText(
  shown: { endpoint: Endpoint; secrets: readonly SecretInfo[]; health: EndpointHealth },
  { bad, warn }: Paint,
): string {
  const { endpoint, secrets, health } = shown;
  const { ratePerSecond: rate, retryDelaysMs: retries } = endpoint;
  const rows: readonly (readonly [string, string | null])[] = [
    ['id', endpoint.id],
    ['url', endpoint.url],
    ['state', stateOf(endpoint)],
    ['topics', endpoint.topics.join(' ')],
    ['description', endpoint.description],
    ['organization', endpoint.organizationId],
    ['filter', endpoint.filter],
    ['headers', endpoint.headerNames.length === 0 ? null : `${endpoint.headerNames.join(', ')} (values are not shown)`],
    ['timeout', durationText(endpoint.timeoutMs)],
    ['in flight', `at most ${formatCount(endpoint.maxInFlight)}`],
    ['rate', rate === null ? null : `at most ${formatCount(rate)} a second`],
    ['ordered', endpoint.ordered ? 'by ordering key' : null],
    [
      'retries',
      retries === null ? `the standard schedule: ${STANDARD_SCHEDULE}` : retries.map(durationText).join(', ') || 'none',
    ],
    ['added', endpoint.createdAt.toISOString()],
    ...secrets.map((secret) => ['secret', secretText(secret)] as const),
    ['breaker', endpoint.enabled ? breakerText(health) : null],
    ['failing since', health.failingSince?.toISOString() ?? null],
    ['waiting', countText(health.waiting, health)],
    ['dead letters', countText(health.dead, health)],
    ['succeeded', successText(health)],
    ['failed', failureText(health)],
  ];
  const paints: Partial<Record<string, (text: string) => string>> = {
    ...(endpoint.enabled ? {} : { state: warn }),
    ...(health.breaker === 'closed' ? {} : { breaker: bad }),
    ...(health.dead === 0 ? {} : { 'dead letters': bad }),
  };
  const shownAs = (name: string, value: string) => (paints[name] ?? ((text: string) => text))(printable(value));
  return rows
    .flatMap(([name, value]) => (value === null ? [] : [`${name.padEnd(14)}${shownAs(name, value)}\n`]))
    .join('');
}

function secretText({ kind, publicKey, createdAt, expiresAt }: SecretInfo): string {
  const until = expiresAt === null ? '' : `, signs too until ${expiresAt.toISOString()}`;
  return `${kind} of ${createdAt.toISOString()}${until}${publicKey === null ? '' : `, public key ${publicKey}`}`;
}

function breakerText({ breaker, probeAt }: EndpointHealth): string {
  switch (breaker) {
    case 'closed':
      return 'closed';
    case 'open':
      return `open: nothing is sent before ${probeAt?.toISOString()}, and from then on the next delivery that is due tries it`;
    case 'half_open':
      return 'half-open: one delivery tries whether it is back';
    default:
      return breaker satisfies never;
  }
}

const countText = (count: number, { isCut }: EndpointHealth) => `${formatCount(count)}${isCut ? ', at least' : ''}`;

function successText({ lastSuccess, amongAttempts }: EndpointHealth): string {
  if (lastSuccess === null) return noneText(amongAttempts);
  return `last at ${lastSuccess.at.toISOString()}: ${lastSuccess.statusCode} in ${lastSuccess.durationMs} ms`;
}

function failureText({ lastFailure, amongAttempts }: EndpointHealth): string {
  if (lastFailure === null) return noneText(amongAttempts);
  return `last at ${lastFailure.at.toISOString()}: ${lastFailure.errorClass}: ${lastFailure.error}`;
}

const noneText = (attempts: number) => `not in the last ${formatCount(attempts)} attempts, of all endpoints`;
