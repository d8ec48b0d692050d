//! A bzImage's kernel, unpacked (Documentation/x86/boot.rst of Linux). QEMU boots the ELF file inside directly (PVH).

use anyhow::{Context as _, Result, bail};
use lz4_flex::block::decompress_into;

/// Offsets in the setup header.
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// Begins LZ4's legacy frame (lz4's doc/lz4_Frame_format.md), which the kernel's build uses;
const LZ4: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// whose blocks unpack to this at most.
const BLOCK: usize = 8 << 20;

/// The ELF file in a kernel that was packed with LZ4, as Debian's cloud kernels are.
///
/// # Errors
/// It is something else.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let setup = usize::from(*image.get(SETUP_SECTORS).context("too short for a kernel")?);
    let start = (setup + 1) * SECTOR + word(image, PAYLOAD_OFFSET)?;
    let length = word(image, PAYLOAD_LENGTH)?;
    let payload = image
        .get(start..start.saturating_add(length))
        .context("the kernel's payload is not inside of the file")?;
    let mut rest = payload
        .strip_prefix(&LZ4[..])
        .context("the kernel is not packed with LZ4")?;
    let mut out = Vec::new();
    let mut block = vec![0; BLOCK];
    // Behind the blocks is the unpacked size.
    while rest.len() > 4 {
        let size = word(rest, 0)?;
        let packed = rest.get(4..4 + size).context("an LZ4 block is cut off")?;
        let count = decompress_into(packed, &mut block).context("an LZ4 block")?;
        out.extend_from_slice(&block[..count]);
        rest = &rest[4 + size..];
    }
    if !out.starts_with(b"\x7fELF") {
        bail!("what is packed in the kernel is no ELF file");
    }
    Ok(out)
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..at + 4).context("cut off")?;
    Ok(u32::from_le_bytes(word.try_into()?) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one sector of setup and a payload behind it.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image.resize(2 * SECTOR, 0);
        let length = u32::try_from(payload.len()).expect("small");
        image.splice(PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4, length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn a_kernel_is_unpacked_and_anything_else_refused() {
        let text = b"\x7fELF and much of the same, the same, the same, the same";
        let packed = lz4_flex::block::compress(text);
        let size = u32::try_from(packed.len()).expect("small").to_le_bytes();
        let payload = [&LZ4[..], &size, &packed, &[0, 0, 0, 0]].concat();
        assert_eq!(unpack(&image(&payload)).expect("a kernel"), text);
        for cut in 1..packed.len() {
            let mut short = image(&payload);
            short.truncate(short.len() - cut);
            assert!(unpack(&short).is_err());
        }
        assert!(unpack(&image(b"\x1f\x8bgzip")).is_err());
        assert!(unpack(b"MZ").is_err());
        assert!(unpack(&[0; 4096]).is_err());
    }
}
