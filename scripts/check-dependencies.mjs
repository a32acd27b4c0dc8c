// Checks the direction of dependencies. The tool reports "no violations" too when it understood no file at all, so
// this asserts that it saw every source file. Runs on the pinned Node: the shell of a first `npm run check` still knows
// the one from before the installation.
import { globSync } from 'node:fs';
import { cruise } from 'dependency-cruiser';
import extractConfig from 'dependency-cruiser/config-utl/extract-depcruise-config';
import extractTsConfig from 'dependency-cruiser/config-utl/extract-ts-config';

const { options, ...ruleSet } = await extractConfig('./.dependency-cruiser.cjs');
const { output } = await cruise(['src'], { ...options, ruleSet, validate: true }, undefined, {
  tsConfig: extractTsConfig('./tsconfig.json'),
});
const sources = globSync('src/**/*.ts');
const seen = new Set(output.modules.map((module) => module.source));
const unseen = sources.filter((file) => !seen.has(file));
for (const { rule, from, to } of output.summary.violations) console.error(`${rule.name}: ${from} → ${to}`);
for (const file of unseen) console.error(`not seen: ${file}`);
console.log(`dependencies: ${seen.size} modules, ${output.summary.violations.length} violations`);
process.exitCode = output.summary.violations.length > 0 || unseen.length > 0 || sources.length === 0 ? 1 : 0;
