"""A tool as a web server: executor tool serve word-count --namespace texts --http http://localhost:8000/

The input is the body of a POST, the output the body of the answer.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WordCount(BaseHTTPRequestHandler):
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = given.get("text")
        if text is None:
            # The call fails with the code HTTP_400 and this message.
            self.answer(400, "the input has no text")
        else:
            self.answer(200, json.dumps({"words": len(text.split()), "call": self.headers["Compozy-Tool-Exec-Id"]}))

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())


ThreadingHTTPServer(("localhost", int(os.environ.get("PORT", "8000"))), WordCount).serve_forever()
