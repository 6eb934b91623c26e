// Convert files from a chooser, a drop or the clipboard to images that the server reads.

const UNCHANGED_TYPES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);
const LARGEST_BYTES = 1_500_000; // of a file that is sent unchanged
const LARGEST_SIDE = 2048; // pixels of a file that is encoded again; models see far fewer

/** Return {name, url, width, height, smaller}; null if the file is not an image. */
export async function readImage(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  const isUnchanged = UNCHANGED_TYPES.has(file.type) && file.size <= LARGEST_BYTES && Math.max(width, height) <= 8192;
  const blob = isUnchanged ? file : await encoded(bitmap, file.type === "image/png" && file.size <= LARGEST_BYTES);
  bitmap.close();
  return { name: file.name || "image", width, height,
    smaller: !isUnchanged && Math.max(width, height) > LARGEST_SIDE, url: await dataUrl(blob) };
}

async function encoded(bitmap, asPng) {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const size = [bitmap.width, bitmap.height].map((edge) => Math.max(2, Math.round(edge * scale)));
  const canvas = new OffscreenCanvas(...size);
  const pen = canvas.getContext("2d");
  if (!asPng) { // JPEG has no transparency; the server uses a white background too
    pen.fillStyle = "white";
    pen.fillRect(0, 0, ...size);
  }
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, ...size);
  return canvas.convertToBlob({ type: asPng ? "image/png" : "image/jpeg", quality: 0.92 });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Return the files in a paste or drop. */
export const filesIn = (transfer) => [...(transfer?.files ?? [])];
