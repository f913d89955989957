//! The key with which the operator vouches to NATS for whoever connects.

use std::path::{Path, PathBuf};

use clap::Args;
use nkeys::{KeyPair, KeyPairType};

use super::Error;

/// How to tell a NATS server whom to ask.
#[derive(Args, Debug)]
pub struct NatsIssuer {
    /// The file with the issuer's key: 32 random bytes.
    #[arg(long, env = "COMPOZY_NATS_ISSUER_KEY_FILE")]
    pub nats_issuer_key_file: PathBuf,
    /// The file to write, which the server's configuration includes: `COMPOZY_ISSUER`, the public key.
    #[arg(long)]
    pub write: PathBuf,
}

/// Writes the file.
///
/// # Errors
/// The key cannot be read, or the file not written.
pub fn write(options: &NatsIssuer) -> Result<(), Error> {
    let key = read(&options.nats_issuer_key_file)?;
    let text = format!("COMPOZY_ISSUER: \"{}\"\n", key.public_key());
    let path = &options.write;
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Reads the key.
///
/// # Errors
/// The file cannot be read, or holds no key.
pub fn read(path: &Path) -> Result<KeyPair, Error> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|bytes| {
        let size = bytes.len();
        format!("{name}: has {size} bytes; a key is 32 random ones")
    })?;
    Ok(KeyPair::new_from_raw(KeyPairType::Account, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_told_the_public_key_of_what_the_operator_signs_with() {
        let folder = std::env::temp_dir().join(format!("compozy-issuer-{}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        let options = NatsIssuer {
            nats_issuer_key_file: folder.join("key"),
            write: folder.join("issuer.conf"),
        };
        std::fs::write(&options.nats_issuer_key_file, [7; 31]).unwrap();
        let error = write(&options).unwrap_err().to_string();
        assert!(
            error.ends_with("has 31 bytes; a key is 32 random ones"),
            "{error}"
        );
        std::fs::write(&options.nats_issuer_key_file, [7; 32]).unwrap();
        write(&options).unwrap();
        let key = read(&options.nats_issuer_key_file).unwrap().public_key();
        let written = std::fs::read_to_string(&options.write).unwrap();
        assert!(key.starts_with('A'));
        assert_eq!(written, format!("COMPOZY_ISSUER: \"{key}\"\n"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
