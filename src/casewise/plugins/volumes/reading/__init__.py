"""Reading scans: NIfTI files, DICOM series and slice images, each checked and brought to one form."""
