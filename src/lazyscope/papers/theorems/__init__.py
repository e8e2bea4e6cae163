"""Do flows do what is proved of them? chizat2019-thm2.2 to -thm2.5, note-s3.1, note-s3.2, note-s4.6."""
