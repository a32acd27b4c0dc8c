import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DCLinter } from 'dclint';
import { DockerfileParser, type Instruction } from 'dockerfile-ast';
import { validate } from 'dockerfile-utils';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { WORKER_DEFAULTS } from '../src/outbox/worker-options.ts';

// There is no container engine where these tests run: what one would read is checked by the Compose Specification's own
// schema (in dclint) and by the Dockerfile language server's validator.

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (name: string) => readFileSync(join(root, name), 'utf8');

interface Service {
  readonly image?: string;
  readonly build?: string;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly depends_on?: Readonly<Record<string, { condition: string }>>;
  readonly healthcheck?: { test: readonly string[]; interval: string; timeout: string };
  readonly stop_grace_period?: string;
}

interface Compose {
  readonly services: Readonly<Record<'postgres' | 'redis' | 'migrate' | 'worker', Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
  readonly configs: Readonly<Record<string, { content: string }>>;
}

/** dclint's own declarations do not resolve from a module. */
interface LintResult {
  readonly messages: readonly { readonly rule: string; readonly message: string }[];
}

describe('docker-compose.yml', () => {
  const text = read('docker-compose.yml');
  const { services, volumes, configs } = parse(text, { merge: true }) as Compose;
  let scratch: string;
  beforeAll(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'liventix-compose-'));
  });
  afterAll(() => rm(scratch, { recursive: true, force: true }));

  // The order of keys and services is told by the file itself: first what is needed, then what needs it.
  const orderRules = [
    'services-alphabetical-order',
    'service-keys-order',
    'service-dependencies-alphabetical-order',
    'top-level-properties-order',
  ];
  const lint = (file: string) =>
    new DCLinter({
      rules: Object.fromEntries(orderRules.map((rule) => [rule, 0 as const])),
      quiet: false,
      debug: false,
      exclude: [],
    })
      .lintFiles([file], false)
      .flatMap(({ messages }: LintResult) => messages.map(({ rule, message }) => `${rule}: ${message}`));

  it('is valid by the schema of the Compose Specification, and by the rules of dclint', () => {
    expect(lint(join(root, 'docker-compose.yml'))).toEqual([]);
  });

  it('would not be with a misspelt key', async () => {
    const file = join(scratch, 'docker-compose.yml');
    await writeFile(file, text.replace('    healthcheck:', '    helthcheck:'));
    expect(lint(file)).toEqual([expect.stringMatching(/^invalid-schema: /)]);
  });

  it('runs PostgreSQL 17 and a Redis that keeps an append-only file and evicts nothing', () => {
    expect(services.postgres.image).toMatch(/^postgres:17\./);
    expect(services.redis.command.slice(0, 5)).toEqual([
      'redis-server',
      '--appendonly',
      'yes',
      '--maxmemory-policy',
      'noeviction',
    ]);
  });

  it('publishes ports on loopback alone', () => {
    const ports = Object.values(services).flatMap((service) => service.ports ?? []);
    expect(ports).toHaveLength(2);
    for (const port of ports) expect(port).toMatch(/^127\.0\.0\.1:/);
  });

  it('holds no password, and does not start without those of the environment', () => {
    const variables = [...text.matchAll(/\$\{(\w+)([^}]*)\}/g)].map(([, name, rest]) => ({ name, rest }));
    const passwords = variables.filter(({ name }) => name?.endsWith('PASSWORD'));
    expect(new Set(passwords.map(({ name }) => name))).toEqual(
      new Set(['POSTGRES_PASSWORD', 'LIVENTIX_PASSWORD', 'REDIS_PASSWORD']),
    );
    for (const { rest } of passwords) expect(rest).toMatch(/^:\?/);

    const required = /^\$\{[A-Z]+_PASSWORD:\?[^}]*\}$/;
    for (const { environment, command } of Object.values(services)) {
      for (const [name, value] of Object.entries(environment ?? {})) {
        if (/PASSWORD|AUTH/.test(name)) expect(value).toMatch(required);
        const inUrl = /:\/\/\w*:(.*)@/.exec(value)?.[1];
        if (inUrl !== undefined) expect(inUrl).toMatch(required);
      }
      const flag = command.indexOf('--requirepass');
      if (flag >= 0) expect(command[flag + 1]).toMatch(required);
    }
    expect(services.redis.command).toContain('--requirepass');
    expect(services.worker.environment['OUTBOX_ENCRYPTION_KEY']).toMatch(/^\$\{OUTBOX_ENCRYPTION_KEY:\?[^}]*\}$/);
  });

  it('migrates once the database is healthy, and works once that is done', () => {
    const conditions = (service: Service) =>
      Object.fromEntries(Object.entries(service.depends_on ?? {}).map(([name, { condition }]) => [name, condition]));
    expect(services.migrate.command).toEqual(['migrate']);
    expect(conditions(services.migrate)).toEqual({ postgres: 'service_healthy' });
    expect(services.worker.command).toEqual(['worker']);
    expect(conditions(services.worker)).toEqual({
      postgres: 'service_healthy',
      redis: 'service_healthy',
      migrate: 'service_completed_successfully',
    });
  });

  it('checks the health of everything that stays up', () => {
    for (const name of ['postgres', 'redis', 'worker'] as const) {
      expect(services[name].healthcheck, name).toMatchObject({
        test: expect.any(Array),
        interval: expect.stringMatching(/^\d+s$/),
        timeout: expect.stringMatching(/^\d+s$/),
      });
    }
    const [, command, , script] = services.worker.healthcheck?.test ?? [];
    expect(command).toBe('node');
    const port = /:(\d+)$/.exec(services.worker.environment?.['LIVENTIX_HTTP'] ?? '')?.[1];
    expect(script).toContain(`http://127.0.0.1:${port}/livez`);
  });

  it('gives the worker longer to stop than it takes to drain', () => {
    const seconds = Number(/^(\d+)s$/.exec(services.worker.stop_grace_period ?? '')?.[1]);
    expect(seconds * 1_000).toBeGreaterThanOrEqual(WORKER_DEFAULTS.drainMs + 10_000);
  });

  it('keeps both servers on named volumes', () => {
    expect(Object.keys(volumes)).toEqual(['postgres', 'redis']);
    expect(services.postgres.volumes).toEqual(['postgres:/var/lib/postgresql/data']);
    expect(services.redis.volumes).toEqual(['redis:/data']);
  });

  it('connects as an owner who is no superuser', () => {
    const user = new URL(services.worker.environment['DATABASE_URL']?.replace(/\$\{[^}]*\}/, 'x') ?? '').username;
    expect(configs['create-owner']?.content).toContain(`create role ${user} login createrole password :'password'`);
    expect(configs['create-owner']?.content).not.toMatch(/superuser/i);
  });
});

describe('Dockerfile', () => {
  const text = read('Dockerfile');
  const instructions = DockerfileParser.parse(text).getInstructions();
  const lastFrom = instructions.findLastIndex((instruction) => instruction.getKeyword() === 'FROM');
  const stages = instructions.filter((instruction) => instruction.getKeyword() === 'FROM');
  const runtime = instructions.slice(lastFrom);
  const argumentsOf = (keyword: string, from: readonly Instruction[]) =>
    from
      .filter((instruction) => instruction.getKeyword() === keyword)
      .map((instruction) => instruction.getTextContent().slice(keyword.length).trim());

  it('is valid, and would not be with a misspelt instruction', () => {
    expect(validate(text)).toEqual([]);
    expect(validate(text.replace('ENTRYPOINT', 'ENTRYPOIN'))).toHaveLength(1);
  });

  it('runs every stage on the Node that the checkout pins', () => {
    const { devDependencies } = JSON.parse(read('package.json')) as { devDependencies: { node: string } };
    const [major, minor] = devDependencies.node.split('.');
    expect(stages).toHaveLength(3);
    for (const stage of argumentsOf('FROM', stages)) expect(stage).toMatch(`node:${major}.${minor}-slim`);
  });

  it('runs as an ordinary user, and takes any command of liventix', () => {
    expect(argumentsOf('USER', runtime)).toEqual(['node']);
    expect(argumentsOf('ENTRYPOINT', runtime)).toEqual(['["node", "/app/bin/liventix"]']);
    expect(argumentsOf('CMD', runtime)).toEqual(['["worker"]']);
  });

  it('ships production dependencies only, without the optional ones', () => {
    expect(argumentsOf('RUN', runtime)).toEqual([]);
    const [modules] = argumentsOf('COPY', runtime).filter((copy) => copy.includes('node_modules'));
    expect(modules).toBe('--from=production /app/node_modules ./node_modules');
    const production = instructions.findIndex((one) => /AS production$/.test(one.getTextContent()));
    const [install] = argumentsOf('RUN', instructions.slice(production, lastFrom));
    expect(install).toMatch(/^npm ci --omit=dev --omit=optional /);
  });

  it('copies only what there is and .dockerignore lets through', () => {
    const allowed = read('.dockerignore')
      .split('\n')
      .filter((line) => line.startsWith('!'))
      .map((line) => line.slice(1));
    for (const name of allowed) expect(existsSync(join(root, name)), name).toBe(true);
    const copied = argumentsOf('COPY', instructions)
      .filter((copy) => !copy.startsWith('--from') && copy !== '. .')
      .flatMap((copy) => copy.split(' ').slice(0, -1));
    expect(allowed).toEqual(expect.arrayContaining(copied));
  });
});
