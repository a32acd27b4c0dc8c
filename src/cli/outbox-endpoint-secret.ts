import { type Command, Option } from 'commander';
import { assertRotatable, rotateSecret } from '../outbox/endpoint-secrets.ts';
import { type AddedEndpoint, getLivingEndpoint } from '../outbox/endpoints.ts';
import { assertHasKey } from '../outbox/key-ring.ts';
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
import { toJson } from './output.ts';
import { readSmallFile } from './small-file.ts';
import { withEndpoints } from './with-endpoints.ts';

interface RotateOptions {
  readonly overlap: number;
  readonly kind?: SecretKind;
  readonly secretFile?: string;
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
    .option('--dry-run', 'say whether it could be rotated now, and change nothing')
    .option('--json', 'print one JSON object')
    .addHelpText('after', ROTATE_HELP)
    .action((id: string, options: RotateOptions) => runRotate(id, options, context));
}

const ROTATE_HELP = `
During the overlap both signatures are in webhook-signature, the new one first: a receiver verifies with either, and changes over when it
likes. Two secrets are valid at a time, and no more.

Examples:
  liventix outbox endpoint rotate-secret 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --overlap 7d
  liventix outbox endpoint rotate-secret 6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4 --overlap 0s        # it is known to somebody`;

async function runRotate(given: string, options: RotateOptions, context: CommandContext): Promise<void> {
  const secret = (await suppliedSecret(options.secretFile)) ?? newSecret(options.kind ?? 'v1');
  const overlapMs = options.overlap;
  await withEndpoints(context, options, async (pool, keyRing) => {
    assertHasKey(keyRing);
    const { id } = await getLivingEndpoint(pool, given);
    if (options.dryRun) {
      await assertRotatable(pool, keyRing, { endpointId: id, overlapMs });
      const wouldRotate = { id, kind: secret.kind, overlapMs };
      context.out.write(options.json ? `${toJson({ wouldRotate })}\n` : `would rotate  ${id}\n`);
      return;
    }
    const { previousUntil, previousWasLost } = await rotateSecret(pool, keyRing, { endpointId: id, secret, overlapMs });
    const shown = { kind: secret.kind, secret: receiversPart(secret) };
    if (previousWasLost) context.err.write('The secret before could not be decrypted, and signs nothing any more.\n');
    context.out.write(
      options.json
        ? `${toJson({ id, ...secretJson(shown), previousUntil })}\n`
        : `${secretLine(shown)}before  ${previousUntil === null ? 'signs nothing any more' : `signs too, until ${previousUntil.toISOString()}`}\n`,
    );
  });
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
