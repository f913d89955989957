//! `install`: brings the executor into the container of an image that does not have it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Error;

/// Copies this program to a file, which is never there half.
///
/// # Errors
/// The file cannot be written; the text names it.
pub fn install(to: &Path) -> Result<(), Error> {
    let part = to.with_extension("part");
    let named = |error: std::io::Error| format!("{}: {error}", to.display());
    fs::copy(std::env::current_exe()?, &part).map_err(named)?;
    // Whatever user the other container runs as.
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).map_err(named)?;
    Ok(fs::rename(&part, to).map_err(named)?)
}
