import { parentPort, workerData } from 'node:worker_threads';
import { type Workload, work } from './old-code.ts';

// On a thread of its own: what else the bench does must not look like a slow server.
const worked = await work(workerData as Workload, () => parentPort?.postMessage('counted'));
parentPort?.postMessage(worked);
