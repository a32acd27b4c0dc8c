"""check-proof.py PROOF.json [HASH ...] exits with 0 where the proof holds and has the roots or seal hashes that you know, with 1 where not."""
import hashlib, json, struct, sys
SEAL = "book_id seal_number sealed_at_us tree_size root coverage_hash previous_seal_hash seal_hash".split()
EVENT = "book_id position event_id effective_at_us recorded_at_us type created_by idempotency_scope idempotency_key request_hash payload".split()
PARTS, pack = [SEAL, EVENT, "format path seals".split(), "format event leaf_hash leaf_index path seals".split()], struct.pack
def given(value, right): return value if right else sys.exit("the proof does NOT hold")
def part(pairs): return given(dict(pairs), sorted(key for key, _ in pairs) in map(sorted, PARTS))  # each key once, no other
def number(value): return given(int(value), type(value) is int or str(int(value)) == value)  # not 1.9, not true
def raw(text, size=32): return given(bytes.fromhex(text), bytes.fromhex(text).hex() == text and len(text) == 2 * size)
def sha256(*parts): return hashlib.sha256(b"".join(parts)).digest()
def node(left, right): return sha256(b"\x01", left, right)
def split(size): return 1 << ((size - 1).bit_length() - 1)  # the largest power of two below size
def field(value, read=str.encode): return pack(">i", -1) if value is None else pack(">i", len(read(value))) + read(value)
def leaf_of(proof):
    book, position, event_id, effective, recorded, *texts, request_hash, payload = map(proof["event"].get, EVENT)
    head = pack(">iq16sqq", number(book), number(position), raw(event_id.replace("-", ""), 16), number(effective), number(recorded))
    head += b"".join(map(field, texts)) + field(request_hash, raw)
    return given(raw(proof["leaf_hash"]), sha256(b"\x00", head, payload.encode()) == raw(proof["leaf_hash"]))
def seal_hash(seal): return sha256(b"\x02", pack(">iqqq", *map(number, map(seal.get, SEAL[:4]))), *map(raw, map(seal.get, SEAL[4:7])))
def root_of(leaf, index, size, path):
    if size == 1: return given(leaf, index == 0 and path == [])
    if index < split(size): return node(root_of(leaf, index, split(size), path[:-1]), path[-1])
    return node(path[-1], root_of(leaf, index - split(size), size - split(size), path[:-1]))
def roots_of(first, size, path):  # of the first leaves alone, and of all
    if first == size: return path * 2 if len(path) == 1 and first > 0 else []
    k, rest, last = split(size), path[:-1], path[-1]
    if first > k: return [node(last, root) for root in roots_of(first - k, size - k, rest)]
    return [node(root, last) if nth else root for nth, root in enumerate(roots_of(first, k, rest))]
def check(proof, known):  # says which fields are the hashes that are known
    given(proof, proof["format"] == f"liventix {'inclusion' if 'event' in proof else 'consistency'} proof 1")
    path, seals = [raw(hash) for hash in given(proof["path"], type(proof["path"]) is list)], proof["seals"]
    roots = [given(raw(seal["root"]), seal_hash(seal) == raw(seal["seal_hash"])) for seal in seals]
    sizes, books = [number(seal["tree_size"]) for seal in seals], {one["book_id"] for one in [*seals, proof.get("event", seals[0])]}
    if "event" in proof: computed = [root_of(leaf_of(proof), number(proof["leaf_index"]), *sizes, path)]
    else: computed = roots_of(*sizes, (roots[:1] if sizes[0] in (sizes[1], split(2 * sizes[0])) else []) + path)
    names = {seal[key]: f"{key} of seal {seal['seal_number']}" for key in ("root", "seal_hash") for seal in seals}
    return [names[hash] for hash in given(known, computed == roots and len(books) == 1)] or ["of no root or seal hash that you know"]
try: print("the proof holds", *check(json.load(open((sys.argv + [""])[1], "rb"), object_pairs_hook=part), sys.argv[2:]), sep=", ")
except OSError as error: sys.exit(print(error, __doc__, sep="\n", file=sys.stderr) or 2)  # nothing was checked
except Exception: sys.exit("the proof does NOT hold")
