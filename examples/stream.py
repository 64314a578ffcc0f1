"""Inspect what arrives in a folder; verdicts on the screen, counters at http://localhost:9464.

python stream.py PLAN FOLDER [--port 9464] [--once]
"""

import argparse
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import adfast
from adfast import cameras


def serve(engine, stream, port):
    """Answer every request with the page that Prometheus reads."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            page = engine.metrics_text(stream).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("localhost", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main():
    """Run until the folder is left alone (--once) or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan")
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=9464, help="0: any free one")
    parser.add_argument("--once", action="store_true", help="stop after the files there are")
    args = parser.parse_args()
    engine = adfast.load(args.plan)
    engine.warmup()
    stream = engine.stream(capacity=8, policy="drop_oldest", with_map=False)
    server = serve(engine, stream, args.port)
    for each in stream.run(cameras.folder(args.folder, watch=not args.once)):
        if each.result is None:
            print(f"{each.id}: {each.error}")
        else:
            verdict = "ANOMALOUS" if each.result.is_anomalous else "good"
            print(f"{each.id} {each.result.score:.9g} {verdict}", flush=True)
    server.shutdown()


if __name__ == "__main__":
    main()
