// Adds to package-lock.json the optional packages of other platforms that npm left out. npm leaves out those that its
// registry does not hold (a mirror may not), and then `npm ci` refuses the lockfile: "Missing: … from lock file".
// Run it after a dependency with native packages was added or changed; a test says when that was forgotten.
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('../package-lock.json', import.meta.url));
const lock = JSON.parse(readFileSync(file, 'utf8'));
const added = [];

for (const [path, { optionalDependencies = {}, dev }] of Object.entries({ ...lock.packages })) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    if (isLocked(name, path)) continue;
    if (!/^\d+\.\d+\.\d+[^ ]*$/.test(version)) throw new Error(`${path} wants ${name} ${version}: no exact version`);
    lock.packages[`node_modules/${name}`] = { version, ...platformOf(name), ...(dev ? { dev } : {}), optional: true };
    added.push(name);
  }
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)));
if (added.length > 0) writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`added ${added.length}: ${added.join(', ')}`);

/** As Node resolves it: in the dependant's own node_modules, then in each one above. */
function isLocked(name, path) {
  for (let base = path; ; base = base.slice(0, Math.max(0, base.lastIndexOf('/node_modules/')))) {
    if (lock.packages[`${base === '' ? '' : `${base}/`}node_modules/${name}`] !== undefined) return true;
    if (base === '') return false;
  }
}

// By the naming that every such package follows. Without it npm would try to fetch them all.
function platformOf(name) {
  const os = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32', 'windows'].find((o) => name.includes(o));
  const cpu = ['arm64', 'x64', 'ppc64', 'riscv64', 's390x', 'ia32', 'arm'].find((c) => name.includes(c));
  if (os === undefined || cpu === undefined) throw new Error(`${name}: for which platform?`);
  const libc = os !== 'linux' ? undefined : { musl: ['musl'], gnu: ['glibc'] }[/musl|gnu/.exec(name)?.[0]];
  return { os: [os === 'windows' ? 'win32' : os], cpu: [cpu], ...(libc === undefined ? {} : { libc }) };
}
