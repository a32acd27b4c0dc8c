"""check-proof.py PROOF.json [HASH ...] exits with 0 where the proof holds and has the roots or seal hashes that you know."""
import hashlib, json, struct, sys
raw, pack = bytes.fromhex, struct.pack
def sha256(*parts): return hashlib.sha256(b"".join(parts)).digest()
def node(left, right): return sha256(b"\x01", left, right)
def split(size): return 1 << ((size - 1).bit_length() - 1)  # the largest power of two below size
def field(value, read=str.encode): return pack(">i", -1) if value is None else pack(">i", len(read(value))) + read(value)
def leaf_hash(event):
    head = pack(">iq", event["book_id"], int(event["position"])) + raw(event["event_id"].replace("-", ""))
    head += pack(">qq", int(event["effective_at_us"]), int(event["recorded_at_us"]))
    texts = [field(event[key]) for key in ("type", "created_by", "idempotency_scope", "idempotency_key")]
    return sha256(b"\x00", head, *texts, field(event["request_hash"], raw), event["payload"].encode())
def seal_hash(seal):
    numbers = [int(seal[key]) for key in ("book_id", "seal_number", "sealed_at_us", "tree_size")]
    hashes = [raw(seal[key]) for key in ("root", "coverage_hash", "previous_seal_hash")]
    return sha256(b"\x02", pack(">iqqq", *numbers), *hashes)
def root_of(leaf, index, size, path):
    if size == 1: return leaf if index == 0 and path == [] else b""
    if index < split(size): return node(root_of(leaf, index, split(size), path[:-1]), path[-1])
    return node(path[-1], root_of(leaf, index - split(size), size - split(size), path[:-1]))
def roots_of(first, size, path):  # of the first leaves alone, and of all
    if first == size: return path * 2 if len(path) == 1 else []
    k, rest, last = split(size), path[:-1], path[-1]
    if first > k: return [node(last, root) for root in roots_of(first - k, size - k, rest)]
    return [node(root, last) if nth else root for nth, root in enumerate(roots_of(first, k, rest))]
def holds(proof, known):
    seals, path = proof["seals"], [raw(hash) for hash in proof["path"]]
    if len(seals) != {"liventix inclusion proof 1": 1, "liventix consistency proof 1": 2}[proof["format"]]: return False
    sizes, roots = [int(seal["tree_size"]) for seal in seals], [raw(seal["root"]) for seal in seals]
    if not all(seal_hash(seal) == raw(seal["seal_hash"]) for seal in seals): return False
    if len({part["book_id"] for part in seals + [proof.get("event", seals[0])]}) > 1: return False
    if not set(known) <= {value for seal in seals for value in seal.values()}: return False
    if len(seals) == 1:
        root = root_of(raw(proof["leaf_hash"]), int(proof["leaf_index"]), sizes[0], path)
        return root == roots[0] and leaf_hash(proof["event"]) == raw(proof["leaf_hash"])
    begins = roots[:1] if sizes[0] in (sizes[1], split(2 * sizes[0])) else []  # the first tree is a node of the second one
    return roots_of(*sizes, begins + path) == roots
try: ok = holds(json.load(open(sys.argv[1], encoding="utf-8")), sys.argv[2:])
except Exception: ok = False
sys.exit(print("the proof holds") if ok else "the proof does NOT hold")
