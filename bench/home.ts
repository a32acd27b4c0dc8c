import { type DemoHome, openDemoHome } from '../src/demo/home.ts';

/** An empty database to measure in: on a server of its own with `settings`, or on that of DATABASE_URL, as it is set up. */
export function openBenchHome(settings: readonly string[] = []): Promise<DemoHome> {
  return openDemoHome({ databaseUrl: process.env['DATABASE_URL'], stateDir: '.liventix/bench', settings });
}
