"""PDF files out of their objects."""

from __future__ import annotations


def pdf_file(objects: dict[int, bytes]) -> bytes:
    """A file of these objects, by number from 1 on; the first is the catalog."""
    out, offsets = b"%PDF-1.4\n", []
    for number, body in objects.items():
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(f"{o:010d} 00000 n \n" for o in offsets)
    return out + f"{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF".encode()


def stream(content: bytes, entries: bytes = b"") -> bytes:
    """A stream object."""
    return b"<< /Length %d " % len(content) + entries + b">>\nstream\n" + content + b"\nendstream"
