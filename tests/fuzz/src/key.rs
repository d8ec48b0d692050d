//! Key files: any bytes are a key or an error that does not give the key away.

use std::path::Path;

use heartline::config::KeyFile;

const NAME: &str = "/etc/heartline/cluster.key";

/// Runs one input.
pub fn run(data: &[u8]) {
    match KeyFile::parse(data, Path::new(NAME)) {
        Ok(key) => {
            let text = key.to_text();
            let again = KeyFile::parse(text.as_bytes(), Path::new(NAME)).expect("its own text");
            assert!(again == key);
            let read = std::str::from_utf8(data).expect("hex digits");
            let lines = |text: &str| {
                text.to_ascii_lowercase()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert!(lines(&text) == lines(read));
        }
        Err(error) => {
            let said = format!("{error} {} {} {error:?}", error.help(), error.code());
            // Any six characters in a row of what may be most of a key.
            if let Ok(text) = std::str::from_utf8(data.trim_ascii())
                && text.is_ascii()
            {
                for part in text.as_bytes().windows(6) {
                    let part = std::str::from_utf8(part).expect("ASCII");
                    let innocent = format!(
                        "{NAME} key-size key-format key-placeholder key-too-many key-alike heartline keygen"
                    );
                    assert!(
                        !part.bytes().all(|b| b.is_ascii_hexdigit())
                            || !said.contains(part)
                            || innocent.contains(part),
                        "{said:?} tells {part:?}"
                    );
                }
            }
        }
    }
}

/// A good key, two of a rotation, a short one, a placeholder, one with a wrong digit.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "00112233445566778899aabbccddeeff\n",
        "00112233445566778899aabbccddeeff\nffeeddccbbaa99887766554433221100\n",
        " 00112233445566778899AABBCCDDEEFF ",
        "0011223344556677",
        "00000000000000000000000000000000",
        "0011223344556677889gaabbccddeeff\n",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}
