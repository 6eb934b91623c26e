// Files from a chooser, a drop or the clipboard, as pictures that the server reads.

const AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);
const LARGEST_BYTES = 1_500_000; // of a file that is sent as it is
const LARGEST_SIDE = 2048; // pixels of one that is drawn anew; models see far fewer

/** {name, url, width, height, smaller}; null for what is no picture. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  const asItIs = AS_THEY_ARE.has(file.type) && file.size <= LARGEST_BYTES && Math.max(width, height) <= 8192;
  const blob = asItIs ? file : await drawn(bitmap, file.type === "image/png" && file.size <= LARGEST_BYTES);
  bitmap.close();
  return { name: file.name || "picture", width, height,
    smaller: !asItIs && Math.max(width, height) > LARGEST_SIDE, url: await dataUrl(blob) };
}

async function drawn(bitmap, asPng) {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const size = [bitmap.width, bitmap.height].map((edge) => Math.max(2, Math.round(edge * scale)));
  const canvas = new OffscreenCanvas(...size);
  const pen = canvas.getContext("2d");
  if (!asPng) { // JPEG has no transparency; the server puts it on white too
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

/** Picture files in a paste or drop; text and links in it are none. */
export const filesIn = (transfer) => [...(transfer?.files ?? [])];
