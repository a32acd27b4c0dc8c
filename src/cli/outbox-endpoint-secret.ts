import { type Command, Option } from 'commander';
import { toJson } from '../db/json-value.ts';
import { type AddedEndpoint, getLivingEndpoint } from '../outbox/endpoints.ts';
import { assertHasKey } from '../outbox/key-ring.ts';
import { assertRotatable, type Rotation, rotateSecret } from '../outbox/secret-rotation.ts';
import {
  newSecret,
  parseSecret,
  receiversPart,
  SECRET_KINDS,
  type SecretKind,
  type SigningSecret,
} from '../outbox/signing-secret.ts';
import type { CommandContext } from './context.ts';
import { duration, durationText } from './options.ts';
import { readSmallFile } from './small-file.ts';
import { withEndpoints } from './with-endpoints.ts';

interface RotateOptions {
  readonly overlap: number;
  readonly kind?: SecretKind;
  readonly secretFile?: string;
  readonly lostKey?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

const MAX_OVERLAP = '30d';
const ONE_DAY_MS = 86_400_000;

export function registerEndpointSecret(endpoint: Command, context: CommandContext): void {
  endpoint
    .command('rotate-secret')
    .description('give an endpoint a new secret; prints once what the receiver verifies with')
    .argument('<id>', 'the endpoint')
    .addOption(
      new Option('--overlap <time>', 'for how long requests are signed with the old one too; 0s ends it at once')
        .argParser(duration('0s', MAX_OVERLAP))
        .default(ONE_DAY_MS, durationText(ONE_DAY_MS)),
    )
    .addOption(new Option('--kind <kind>', 'v1 (HMAC) or v1a (ed25519); v1 when left out').choices(SECRET_KINDS))
    .addOption(
      new Option('--secret-file <file>', 'a secret of your own, whsec_… or whsk_…; - reads it from stdin').conflicts(
        'kind',
      ),
    )
    .option(
      '--lost-key',
      'although no key that is set decrypts the old one, because nobody has its key: it ends at once',
    )
    .option('--dry-run', 'say whether it could be rotated now, and what of the old one, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ROTATE_HELP)
    .action((id: string, options: RotateOptions) => runRotate(id, options, context));
}

const ROTATE_HELP = `
During the overlap both signatures are in webhook-signature, the new one first: a receiver verifies with either, and changes over when it
likes. Two secrets are valid at a time, and no more.

With a wrong OUTBOX_ENCRYPTION_KEY nothing is rotated: the old secret would be lost, and no worker could read the new one. Where the right
one is lost, --lost-key gives the old secret up: give every worker the key that is set now, and the receiver the new secret.

Examples:
  liventix outbox endpoint rotate-secret 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --overlap 7d
  liventix outbox endpoint rotate-secret 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --overlap 0s        # it is known to somebody`;

async function runRotate(given: string, options: RotateOptions, context: CommandContext): Promise<void> {
  const secret = (await suppliedSecret(options.secretFile)) ?? newSecret(options.kind ?? 'v1');
  const { overlap: overlapMs, lostKey: isKeyLost = false, json, dryRun } = options;
  await withEndpoints(context, options, async (pool, keyRing) => {
    assertHasKey(keyRing);
    const { id } = await getLivingEndpoint(pool, given);
    const request = { endpointId: id, secret, overlapMs, isKeyLost };
    if (dryRun) {
      const before = await assertRotatable(pool, keyRing, request);
      const wouldRotate = { id, kind: secret.kind, overlapMs, previousWouldBeLost: before === 'undecryptable' };
      context.out.write(
        json ? `${toJson({ wouldRotate })}\n` : `would rotate  ${id}\nbefore  ${wouldBe(before, overlapMs)}\n`,
      );
      return;
    }
    const rotation = await rotateSecret(pool, keyRing, request);
    const shown = { kind: secret.kind, secret: receiversPart(secret) };
    context.out.write(
      json
        ? `${toJson({ id, ...secretJson(shown), ...rotation })}\n`
        : `${secretLine(shown)}before  ${was(rotation)}\n`,
    );
  });
}

const LOST = 'no key that is set decrypts it';

function wouldBe(before: Awaited<ReturnType<typeof assertRotatable>>, overlapMs: number): string {
  if (before === 'undecryptable') return `would be lost: ${LOST}, and it would sign nothing any more`;
  if (before === 'missing') return 'there is none';
  return overlapMs === 0 ? 'would sign nothing any more' : `would sign too, for ${durationText(overlapMs)}`;
}

function was({ previousUntil, previousWasLost }: Rotation): string {
  if (previousUntil !== null) return `signs too, until ${previousUntil.toISOString()}`;
  return `signs nothing any more${previousWasLost ? `: ${LOST}` : ''}`;
}

/** What `--secret-file` names; undefined when it was left out. */
export async function suppliedSecret(file: string | undefined): Promise<SigningSecret | undefined> {
  return file === undefined ? undefined : parseSecret((await readSmallFile(file, '--secret-file')).trim());
}

type Shown = Pick<AddedEndpoint, 'kind' | 'secret'>;

export function secretLine({ kind, secret }: Shown): string {
  return `${kind === 'v1' ? 'secret' : 'public'}  ${secret}\n`;
}

export function secretJson({ kind, secret }: Shown): Record<string, string> {
  return { kind, [kind === 'v1' ? 'secret' : 'publicKey']: secret };
}
