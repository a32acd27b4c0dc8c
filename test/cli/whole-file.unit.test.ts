import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { writeWholeFile } from '../../src/cli/whole-file.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'liventix-file-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function* chunks(...texts: string[]): AsyncGenerator<string> {
  yield* texts;
}

async function* failing(): AsyncGenerator<string> {
  yield 'half';
  throw new Error('interrupted');
}

describe('a file that is written as a whole', () => {
  it('is there with all of it, and nothing beside it', async () => {
    await writeWholeFile(join(folder, 'a.txt'), chunks('one ', 'zwei ✓'));
    expect(await readFile(join(folder, 'a.txt'), 'utf8')).toBe('one zwei ✓');
    expect(await readdir(folder)).toEqual(['a.txt']);
  });

  it('is not there, nor any part of it, where what writes it fails', async () => {
    await expect(writeWholeFile(join(folder, 'a.txt'), failing())).rejects.toThrow('interrupted');
    expect(await readdir(folder)).toEqual([]);
  });

  it('leaves the one before as it was where what writes it fails, and replaces it with its permissions where not', async () => {
    const file = join(folder, 'a.txt');
    await writeFile(file, 'before');
    await chmod(file, 0o600);
    await expect(writeWholeFile(file, failing())).rejects.toThrow('interrupted');
    expect(await readFile(file, 'utf8')).toBe('before');
    await writeWholeFile(file, chunks('after'));
    expect(await readFile(file, 'utf8')).toBe('after');
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(await readdir(folder)).toEqual(['a.txt']);
  });

  it('is what a link points to', async () => {
    await writeFile(join(folder, 'a.txt'), 'before');
    await symlink(join(folder, 'a.txt'), join(folder, 'link'));
    await writeWholeFile(join(folder, 'link'), chunks('after'));
    expect(await readFile(join(folder, 'a.txt'), 'utf8')).toBe('after');
  });

  it('is written into where it is a pipe, which stays one', async () => {
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const reader = spawn('cat', [pipe], { stdio: ['ignore', 'pipe', 'inherit'] });
    let read = '';
    reader.stdout.setEncoding('utf8').on('data', (text: string) => {
      read += text;
    });
    await Promise.all([writeWholeFile(pipe, chunks('through ', 'the pipe')), once(reader, 'close')]);
    expect(read).toBe('through the pipe');
    expect((await stat(pipe)).isFIFO()).toBe(true);
  });

  it.each([
    ['in a folder that is not there', 'none/a.txt', 'SYSTEM_FAILED', /ENOENT/],
    ['that is a folder', 'folder', 'SYSTEM_FAILED', /EISDIR/],
    ['below a file', 'file/a.txt', 'SYSTEM_FAILED', /ENOTDIR/],
    ['that has the name of a folder', 'new/', 'USAGE', /names no file/],
  ])('%s is refused before anything is asked for', async (_what, path, code, message) => {
    await mkdir(join(folder, 'folder'));
    await writeFile(join(folder, 'file'), '');
    let asked = false;
    const asks = (async function* () {
      asked = true;
      yield 'x';
    })();
    await expect(writeWholeFile(`${folder}/${path}`, asks)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    expect(asked).toBe(false);
    expect((await readdir(folder)).toSorted()).toEqual(['file', 'folder']);
  });
});
