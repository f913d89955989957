//! How our programs say to NATS who they are. Every file is read at every connect: a rotated Secret needs no restart.

use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;

/// The files that say who a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password of a user.
    Password {
        /// The file with the name.
        user: PathBuf,
        /// The file with the password.
        password: PathBuf,
    },
    /// A token.
    Token(PathBuf),
    /// A `.creds` file: a user's JWT and the seed of its key.
    Creds(PathBuf),
}

impl Credentials {
    /// What the files say now, as the answer to the server's `nonce`.
    pub(super) fn read(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Credentials::Password { user, password } => {
                auth.username = Some(read_line(user)?);
                auth.password = Some(read_line(password)?);
            }
            Credentials::Token(token) => auth.token = Some(read_line(token)?),
            Credentials::Creds(path) => {
                let text = read(path)?;
                // The text stays out of the error: it is a secret.
                let invalid = |what: &str| AuthError::new(format!("{}: {what}", path.display()));
                let jwt = section(&text, "NATS USER JWT").ok_or_else(|| invalid("no user JWT"))?;
                let seed =
                    section(&text, "USER NKEY SEED").ok_or_else(|| invalid("no NKEY seed"))?;
                let key = KeyPair::from_seed(seed).map_err(|_| invalid("the NKEY seed is none"))?;
                let signature = key.sign(nonce);
                auth.signature = Some(signature.map_err(|_| invalid("the key does not sign"))?);
                auth.jwt = Some(jwt.to_owned());
            }
        }
        Ok(auth)
    }
}

fn read(path: &Path) -> Result<String, AuthError> {
    std::fs::read_to_string(path)
        .map_err(|error| AuthError::new(format!("{}: {error}", path.display())))
}

/// A file of one line; editors end it with a line break.
fn read_line(path: &Path) -> Result<String, AuthError> {
    Ok(read(path)?.trim_end_matches(['\r', '\n']).to_owned())
}

/// The line below the dashed one that begins a part of a `.creds` file.
fn section<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {title}");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&begin))?;
    lines.find(|line| !line.is_empty() && !line.starts_with("---"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let path = std::env::temp_dir().join(format!("compozy-auth-{}", fastrand::u64(..)));
            std::fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn credentials_are_read_anew_each_time() {
        let folder = Folder::new();
        let user = folder.file("username", "operator");
        let password = folder.0.join("password");
        let credentials = Credentials::Password { user, password };
        assert!(credentials.read(b"").is_err());
        for secret in ["one", "two\n"] {
            folder.file("password", secret);
            let auth = credentials.read(b"").unwrap();
            assert_eq!(auth.username.as_deref(), Some("operator"));
            assert_eq!(auth.password.as_deref(), Some(secret.trim_end()));
        }
        let token = Credentials::Token(folder.file("token", "t0k3n\r\n"));
        assert_eq!(token.read(b"").unwrap().token.as_deref(), Some("t0k3n"));
    }

    #[test]
    fn a_creds_file_signs_what_the_server_asks() {
        let folder = Folder::new();
        let key = KeyPair::new_user();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nhead.body.tail\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            key.seed().unwrap()
        );
        let creds = Credentials::Creds(folder.file("nats.creds", &text));
        let auth = creds.read(b"nonce").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("head.body.tail"));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
    }

    #[test]
    fn what_is_wrong_with_a_creds_file_is_said_without_its_text() {
        let folder = Folder::new();
        let jwt = "-----BEGIN NATS USER JWT-----\nhead.body.tail\n------END NATS USER JWT------\n";
        let seed = |seed: &str| format!("{jwt}-----BEGIN USER NKEY SEED-----\n{seed}\n");
        for (text, what) in [
            (String::new(), "no user JWT"),
            (jwt.to_owned(), "no NKEY seed"),
            (seed("SUASECRET"), "the NKEY seed is none"),
        ] {
            let creds = Credentials::Creds(folder.file("nats.creds", &text));
            let error = creds.read(b"").err().unwrap().to_string();
            assert!(error.contains(what), "{error}");
            assert!(
                !error.contains("SECRET") && !error.contains("head"),
                "{error}"
            );
        }
    }
}
