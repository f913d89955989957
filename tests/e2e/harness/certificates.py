"""Certificates of a test's own, made with openssl: an authority, and who it vouches for."""

import subprocess


class Authority:
    """Its certificate is `ca`; `issue` makes further ones."""

    def __init__(self, directory):
        directory.mkdir()
        self.directory = directory
        self.ca = directory / "ca.crt"
        self._key = directory / "ca.key"
        self._openssl("req", "-x509", *self._new_key(self._key), "-subj", "/CN=test authority", "-out", self.ca)

    def issue(self, name, alternatives):
        """The paths of a certificate and its key, good for server and client; e.g. `DNS:nats.example,IP:127.0.0.1`."""
        certificate, key, request = (self.directory / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\n")
        self._openssl("req", *self._new_key(key), "-subj", f"/CN={name}", "-out", request)
        self._openssl(
            "x509", "-req", "-in", request, "-days", "1", "-extfile", extensions, "-out", certificate,
            "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial",
        )  # fmt: skip
        return certificate, key

    @staticmethod
    def _new_key(path):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
